import { expect, it } from 'vitest';
import { MIB } from '../../src/base/units.ts';
import { needPrograms } from '../support/peers.ts';
import { runProgram } from '../support/run-program.ts';
import { readBytes, type Serving, startPair, startPlain } from '../support/serving.ts';

/** Runs a script with `h` connected to the server, `URI` its address, and a few helpers. Its output, which is `ok` at the end. */
async function shell(serving: Serving, script: string): Promise<string> {
  const prelude = `
import errno, os, random
URI = ${JSON.stringify(serving.uri)}
h.set_strict_mode(0)
h.add_meta_context("base:allocation")
h.connect_uri(URI)
def fails(error, action):
    try:
        action()
    except nbd.Error as e:
        assert e.errnum == error, "%s instead of %s" % (e, errno.errorcode[error])
        return
    raise AssertionError("succeeded, and %s was expected" % errno.errorcode[error])
`;
  // Debian's module belongs to Debian's Python, whatever other Python comes first in $PATH.
  const env = { PATH: `/usr/bin:/bin:${process.env['PATH'] ?? ''}` };
  const output = await runProgram('nbdsh', ['-c', `${prelude}\n${script}\nprint('ok')`], { env });
  return output.trim();
}

needPrograms(
  'nbdsh',
  'nbdsh',
)(() => {
  it('what one connection wrote the other one reads, and its flush covers it', async () => {
    const serving = await startPlain();
    const output = await shell(
      serving,
      `
other = nbd.NBD()
other.connect_uri(URI)
assert h.can_multi_conn() and other.can_multi_conn()
for round in range(200):
    data = os.urandom(random.randint(1, 70000))
    offset = random.randint(0, h.get_size() - len(data))
    h.pwrite(data, offset)
    assert other.pread(len(data), offset) == data
    other.flush()
`,
    );
    expect(output).toBe('ok');
  });

  it('FUA, trims, zeroes and the cache command work, with every flag that is offered', async () => {
    const serving = await startPlain();
    const output = await shell(
      serving,
      `
h.pwrite(b"x" * 1048576, 0, nbd.CMD_FLAG_FUA)
h.trim(65536, 65536, nbd.CMD_FLAG_FUA)
assert h.pread(65536, 65536) == bytes(65536)
h.zero(65536, 262144, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
assert h.pread(65536, 262144) == bytes(65536)
h.zero(4096, 524288, nbd.CMD_FLAG_FAST_ZERO)
h.zero(5, 777)
assert h.pread(16, 770) == b"x" * 7 + bytes(5) + b"x" * 4
h.cache(1048576, 0)
h.flush()
`,
    );
    expect(output).toBe('ok');
    expect(readBytes(serving.disk, 770, 16).toString('latin1')).toBe('xxxxxxx\0\0\0\0\0xxxx');
    expect(readBytes(serving.disk, 65_536, 65_536).equals(Buffer.alloc(65_536))).toBe(true);
  });

  it('bad requests get the errors of the specification, and the connection lives on', async () => {
    const serving = await startPlain();
    const output = await shell(
      serving,
      `
size = h.get_size()
fails(errno.EINVAL, lambda: h.pread(2, size - 1))
fails(errno.ENOSPC, lambda: h.pwrite(b"ab", size - 1))
fails(errno.ENOSPC, lambda: h.zero(2, size - 1))
fails(errno.EINVAL, lambda: h.trim(2, size - 1))
fails(errno.EINVAL, lambda: h.cache(2, size - 1))
fails(errno.EINVAL, lambda: h.trim(512, 0, nbd.CMD_FLAG_REQ_ONE))
fails(errno.EINVAL, lambda: h.block_status(0, 0, lambda *args: 0))
fails(errno.EINVAL, lambda: h.block_status(2, size - 1, lambda *args: 0))
h.trim(0, 0)
h.zero(0, 0)
h.pwrite(b"", 0)
h.pwrite(b"end", size - 3)
assert h.pread(3, size - 3) == b"end"
`,
    );
    expect(output).toBe('ok');
  });

  it('structured reads bring holes as holes, and data with DF', async () => {
    const serving = await startPlain();
    const output = await shell(
      serving,
      `
h.pwrite(b"d" * 65536, 131072, nbd.CMD_FLAG_FUA)
def read(flags):
    chunks = []
    def chunk(data, offset, status, err):
        chunks.append((offset, len(data), status))
    buf = h.pread_structured(262144, 65536, chunk, flags)
    assert buf == bytes(65536) + b"d" * 65536 + bytes(131072)
    return sorted(chunks)
assert read(0) == [
    (65536, 65536, nbd.READ_HOLE), (131072, 65536, nbd.READ_DATA), (196608, 131072, nbd.READ_HOLE)], read(0)
assert read(nbd.CMD_FLAG_DF) == [(65536, 262144, nbd.READ_DATA)]
`,
    );
    expect(output).toBe('ok');
  });

  it('block status tells the truth about random content, in one go and extent by extent', async () => {
    const serving = await startPlain();
    const output = await shell(
      serving,
      `
pages = sorted(random.sample(range(0, h.get_size() // 4096), 400))
for page in pages:
    h.pwrite(b"p" * 4096, page * 4096)
h.flush()
def walk(flags):
    at, data = 0, set()
    while at < h.get_size():
        found = []
        def extent(context, offset, entries, err):
            assert context == "base:allocation" and offset == at
            found.extend(entries)
        h.block_status(h.get_size() - at, at, extent, flags)
        if flags: assert len(found) == 2
        for length, status in zip(found[::2], found[1::2]):
            assert length > 0
            if status == 0: data.update(range(at // 4096, (at + length + 4095) // 4096))
            at += length
    return data
whole, single = walk(0), walk(nbd.CMD_FLAG_REQ_ONE)
assert whole == single
assert whole.issuperset(pages)
assert len(whole) < 2 * len(pages)
`,
    );
    expect(output).toBe('ok');
  });

  it('requests of many connections are answered out of order, each with its own data', async () => {
    const serving = await startPair();
    const output = await shell(
      serving,
      `
random.seed(1)
handles = [h] + [nbd.NBD() for _ in range(3)]
for other in handles[1:]: other.connect_uri(URI)
size = h.get_size()
model = bytearray(size)
UNIT = 16384
order, finished, slots = [], [], {}
def submit(number):
    unit = number % (size // UNIT)
    data = os.urandom(random.choice([512, 4096, UNIT]))
    offset = unit * UNIT
    model[offset:offset + len(data)] = data
    flags = nbd.CMD_FLAG_FUA if number % 37 == 0 else 0
    def done(err, number=number):
        assert err.value == 0
        finished.append(number)
        return 1
    handles[number % 4].aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), offset, done, flags)
    order.append(number)
number = 0
while len(finished) < 3000:
    while number < 3000 and number - len(finished) < 256:
        submit(number)
        number += 1
    for handle in handles:
        if handle.aio_in_flight() > 0: handle.poll(0)
assert sorted(finished) == order
assert finished != order
for handle in handles[1:]: handle.shutdown()
h.flush()
for offset in range(0, size, 1 << 20):
    assert h.pread(1 << 20, offset) == model[offset:offset + (1 << 20)]
`,
    );
    expect(output).toBe('ok');
    await serving.expectSettled();
  });

  it('the largest payload passes, and one byte more is refused', async () => {
    const serving = await startPlain();
    const output = await shell(
      serving,
      `
data = os.urandom(${32 * MIB})
h.pwrite(data, 12345)
assert h.pread(len(data), 12345) == data
fails(errno.EOVERFLOW, lambda: h.pread(len(data) + 1, 0))
fails(errno.EINVAL, lambda: h.pwrite(data + b"x", 0))
assert h.pread(16, 12345) == data[:16]
`,
    );
    expect(output).toBe('ok');
  });
});
