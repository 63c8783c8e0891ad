/** Server and client half together, over real unix sockets. */
import { chmodSync, existsSync, mkdirSync, readdirSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import { silentLog } from '../../../src/base/log.ts';
import { ask, findProcesses, findTarget, PROMPT_ANSWER_MS } from '../../../src/control/client.ts';
import {
  CLIENT_IDLE_MS,
  CLIENTS_MAX,
  encodeRequest,
  REQUEST_SIZE_MAX,
  REQUESTS_WAITING_MAX,
  type Request,
} from '../../../src/control/protocol.ts';
import { type ControlHandler, type ControlServer, startControlServer } from '../../../src/control/server.ts';
import { type Clock, systemClock } from '../../../src/io/clock.ts';
import { nodeNetwork } from '../../../src/io/node-network.ts';
import { ManualClock } from '../../support/manual-clock.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';

const STATUS = { state: 'streaming', text: 'grün\n' };

function handlerWith(changes: Partial<ControlHandler> = {}): ControlHandler {
  return {
    describe: () => ({ role: 'primary', pid: process.pid, version: '1.2.3', targets: ['/srv/disk.img', 'disk'] }),
    status: () => STATUS,
    verify: async () => ({ differingSize: 0 }),
    setRescanRate: () => ({}),
    recover: () => Promise.reject(new Failure('usage', 'a primary has no image to recover')),
    ...changes,
  };
}

async function serve(
  folder: string,
  handler: ControlHandler = handlerWith(),
  clock: Clock = systemClock,
): Promise<ControlServer> {
  const server = await startControlServer(nodeNetwork, clock, silentLog, join(folder, 'run'), handler);
  onTestFinished(() => server.close());
  return server;
}

function askIt(server: ControlServer, command: Request, onProgress?: (progress: object) => void) {
  return ask(nodeNetwork, systemClock, server.path, command, onProgress);
}

/** A client that sends what it likes. */
async function rawClient(
  server: ControlServer,
): Promise<{ socket: Socket; text: () => string; closed: Promise<void> }> {
  const socket = connect(server.path);
  let text = '';
  socket.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
  });
  socket.on('error', () => {});
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
  await new Promise<void>((resolve) => socket.once('connect', resolve));
  onTestFinished(() => void socket.destroy());
  return { socket, text: () => text, closed };
}

describe('the control socket', () => {
  it('answers status', async () => {
    expect(await askIt(await serve(temporaryFolder()), 'status')).toEqual(STATUS);
  });

  it('hands over progress in order, then the result', async () => {
    const server = await serve(
      temporaryFolder(),
      handlerWith({
        async verify(onProgress) {
          for (let step = 1; step <= 3; step += 1) onProgress({ step });
          return { done: true };
        },
      }),
    );
    const seen: object[] = [];
    expect(await askIt(server, 'verify', (progress) => seen.push(progress))).toEqual({ done: true });
    expect(seen).toEqual([{ step: 1 }, { step: 2 }, { step: 3 }]);
  });

  it('hands over the rate of rescans, and that there shall be none', async () => {
    const asked: unknown[] = [];
    const setRescanRate = (bytesPerSecond: number | undefined): object => {
      asked.push(bytesPerSecond);
      return {};
    };
    const server = await serve(temporaryFolder(), handlerWith({ setRescanRate }));
    await askIt(server, { command: 'rescan-rate', bytesPerSecond: 1000 });
    await askIt(server, { command: 'rescan-rate', bytesPerSecond: null });
    expect(asked).toEqual([1000, undefined]);
  });

  it('hands over which image to recover, and how', async () => {
    const asked: unknown[] = [];
    const server = await serve(
      temporaryFolder(),
      handlerWith({
        async recover(image, dryRun) {
          asked.push([image, dryRun]);
          return { image };
        },
      }),
    );
    const image = '/srv/mirrors/grün.img';
    expect(await askIt(server, { command: 'recover', image, dryRun: true })).toEqual({ image });
    expect(await askIt(server, { command: 'recover', image, dryRun: false })).toEqual({ image });
    expect(asked).toEqual([
      [image, true],
      [image, false],
    ]);
  });

  it('hands over a failure with its code', async () => {
    const server = await serve(
      temporaryFolder(),
      handlerWith({ verify: () => Promise.reject(new Failure('not-ready', 'not yet')) }),
    );
    await expect(askIt(server, 'verify')).rejects.toMatchObject({ code: 'not-ready', message: 'not yet' });
  });

  it('answers several requests of one client in their order, also when it has ended its side', async () => {
    const server = await serve(temporaryFolder());
    const client = await rawClient(server);
    client.socket.end(Buffer.concat([encodeRequest('status'), Buffer.from('nonsense\n'), encodeRequest('describe')]));
    await client.closed;
    const kinds = client
      .text()
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(kinds).toMatchObject([
      { kind: 'result', result: STATUS },
      { kind: 'failure', code: 'usage' },
      { kind: 'result', result: { role: 'primary' } },
    ]);
  });

  it('lies in a folder that nobody else may enter, and goes with the process', async () => {
    const folder = temporaryFolder();
    const server = await serve(folder);
    expect(statSync(join(folder, 'run')).mode & 0o777).toBe(0o700);
    expect(server.path).toBe(join(folder, 'run', `primary-${process.pid}.sock`));
    await server.close();
    expect(readdirSync(join(folder, 'run'))).toEqual([]);
  });

  it('takes another name beside a live process of the same id, in another container say', async () => {
    const folder = temporaryFolder();
    const [first, second] = [await serve(folder), await serve(folder)];
    expect(second.path).not.toBe(first.path);
    expect(await askIt(first, 'status')).toEqual(STATUS);
    expect(await askIt(second, 'status')).toEqual(STATUS);
  });

  it('disconnects its clients when it closes, and the client says so', async () => {
    let closing = Promise.resolve();
    const server = await serve(
      temporaryFolder(),
      handlerWith({
        verify: () => {
          closing = server.close();
          return new Promise(() => {});
        },
      }),
    );
    await expect(askIt(server, 'verify')).rejects.toMatchObject({ code: 'connection-lost' });
    await closing;
  });
});

describe('limits of the control socket', () => {
  it('a request that is too long ends the connection', async () => {
    const client = await rawClient(await serve(temporaryFolder()));
    client.socket.write('x'.repeat(REQUEST_SIZE_MAX + 1));
    await client.closed;
    expect(client.text()).toBe('');
  });

  it('too many requests at once end the connection', async () => {
    const server = await serve(temporaryFolder(), handlerWith({ verify: () => new Promise(() => {}) }));
    const client = await rawClient(server);
    const requests = Array.from({ length: REQUESTS_WAITING_MAX + 2 }, () => encodeRequest('verify'));
    client.socket.write(Buffer.concat(requests));
    await client.closed;
    expect(client.text()).toBe('');
  });

  it('one client more than allowed is turned away, and there is room again when one leaves', async () => {
    const server = await serve(temporaryFolder());
    const clients = [];
    for (let index = 0; index < CLIENTS_MAX; index += 1) clients.push(await rawClient(server));
    const answered = clients.at(-1)!;
    answered.socket.write(encodeRequest('status'));
    await new Promise((resolve) => answered.socket.once('data', resolve));
    await expect(askIt(server, 'status')).rejects.toBeInstanceOf(Failure);
    answered.socket.end();
    await answered.closed;
    expect(await askIt(server, 'status')).toEqual(STATUS);
  });

  it('a client that asks nothing is disconnected, one that waits for its answer is not', async () => {
    const clock = new ManualClock();
    let finish: (report: object) => void = () => {};
    const verify = () => new Promise<object>((resolve) => (finish = resolve));
    const server = await serve(temporaryFolder(), handlerWith({ verify }), clock);
    const silent = await rawClient(server);
    const waiting = await rawClient(server);
    waiting.socket.write(Buffer.concat([encodeRequest('status'), encodeRequest('verify')]));
    await new Promise((resolve) => waiting.socket.once('data', resolve));
    clock.advance(CLIENT_IDLE_MS);
    await silent.closed;
    finish({ differingSize: 0 });
    await new Promise((resolve) => waiting.socket.once('data', resolve));
    expect(waiting.text()).toContain('"differingSize":0');
  });
});

describe('the client', () => {
  it('finds running processes, removes dead sockets and leaves other files alone', async () => {
    const folder = temporaryFolder();
    const server = await serve(folder);
    const dead = createServer();
    const deadPath = join(folder, 'run', 'mirror-1.sock');
    await new Promise<void>((resolve) => dead.listen(deadPath, resolve));
    // A process that is killed leaves its socket behind: a link keeps the name beyond the close.
    const { linkSync, renameSync } = await import('node:fs');
    linkSync(deadPath, `${deadPath}.kept`);
    await new Promise((resolve) => dead.close(resolve));
    renameSync(`${deadPath}.kept`, deadPath);
    writeFileSync(join(folder, 'run', 'notes'), '');
    const found = await findProcesses(nodeNetwork, systemClock, join(folder, 'run'));
    expect(found.answering.map(({ path }) => path)).toEqual([server.path]);
    expect(found.silent).toEqual([]);
    expect(found.answering[0]!.description).toMatchObject({ role: 'primary', version: '1.2.3' });
    expect(existsSync(deadPath)).toBe(false);
    expect(existsSync(join(folder, 'run', 'notes'))).toBe(true);
  });

  it('names a process that is stuck, by its socket', async () => {
    const folder = temporaryFolder();
    mkdirSync(join(folder, 'run'), { mode: 0o700 });
    const clock = new ManualClock();
    const arrived = new Promise<void>((resolve) => {
      const stuck = createServer((socket) => {
        socket.on('error', () => {});
        socket.once('data', () => resolve());
        onTestFinished(() => void socket.destroy());
      });
      stuck.listen(join(folder, 'run', 'mirror-667-2.sock'));
      onTestFinished(() => void stuck.close());
    });
    const finding = findProcesses(nodeNetwork, clock, join(folder, 'run'));
    await arrived;
    clock.advance(PROMPT_ANSWER_MS);
    const { answering, silent } = await finding;
    expect(silent).toMatchObject([{ role: 'mirror', pid: 667, problem: { code: 'not-answering' } }]);
    expect(answering).toEqual([]);
  });

  it('finds nothing where there is no folder', async () => {
    const found = await findProcesses(nodeNetwork, systemClock, join(temporaryFolder(), 'none'));
    expect(found).toEqual({ answering: [], silent: [] });
  });

  it('selects by path, by a link to the path, and by name', async () => {
    const folder = temporaryFolder();
    const disk = join(folder, 'disk.img');
    writeFileSync(disk, '');
    symlinkSync(disk, join(folder, 'link'));
    const description = { role: 'primary', pid: 1, version: '1', targets: [disk, 'web'] } as const;
    const processes = [{ path: 'a', description }];
    expect(await findTarget(processes, disk)).toEqual(processes);
    expect(await findTarget(processes, join(folder, 'link'))).toEqual(processes);
    expect(await findTarget(processes, 'web')).toEqual(processes);
    expect(await findTarget(processes, 'we')).toEqual([]);
  });

  it('does not trust a folder that others may enter, or that is a link', async () => {
    const folder = temporaryFolder();
    const open = join(folder, 'open');
    mkdirSync(open);
    chmodSync(open, 0o755);
    const closed = join(folder, 'closed');
    mkdirSync(closed, { mode: 0o700 });
    symlinkSync(closed, join(folder, 'link'));
    for (const directory of [open, join(folder, 'link')]) {
      await expect(findProcesses(nodeNetwork, systemClock, directory)).rejects.toMatchObject({
        code: 'runtime-directory',
      });
      const started = startControlServer(nodeNetwork, systemClock, silentLog, directory, handlerWith());
      await expect(started).rejects.toMatchObject({ code: 'runtime-directory' });
    }
  });

  it('does not wait forever for a process that is stuck', async () => {
    const clock = new ManualClock();
    const path = join(temporaryFolder(), 'stuck.sock');
    const arrived = new Promise<void>((resolve) => {
      const stuck = createServer((socket) => {
        socket.on('error', () => {});
        socket.once('data', () => resolve());
        onTestFinished(() => void socket.destroy());
      });
      stuck.listen(path);
      onTestFinished(() => void stuck.close());
    });
    void arrived.then(() => clock.advance(60_000));
    await expect(ask(nodeNetwork, clock, path, 'status')).rejects.toMatchObject({ code: 'peer-timeout' });
  });

  it('tells what speaks another protocol from an answer', async () => {
    const path = join(temporaryFolder(), 'http.sock');
    const foreign = createServer((socket) => {
      socket.on('error', () => {});
      socket.end('HTTP/1.1 400 Bad Request\r\n\r\n');
    });
    await new Promise<void>((resolve) => foreign.listen(path, resolve));
    onTestFinished(() => void foreign.close());
    await expect(ask(nodeNetwork, systemClock, path, 'status')).rejects.toMatchObject({ code: 'peer-foreign' });
  });
});
