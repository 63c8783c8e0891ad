/** A scan pool without threads: for tests, whose disks have no descriptor to share. */
import { Failure } from '../../src/base/failure.ts';
import { digestUnits } from '../../src/io/digest.ts';
import type { Disk } from '../../src/io/disk.ts';
import type { ScanPool, ScanRequest, ScanResult } from '../../src/io/scan-pool.ts';
import { checkScanRequest, newScanResult, SCAN_STEP_SIZE } from '../../src/io/scan-request.ts';

export function inlineScanPool(): ScanPool {
  let closed = false;
  return {
    async scan(disk: Disk, request: ScanRequest): Promise<ScanResult> {
      checkScanRequest(disk, request);
      const { unitSize, key } = request;
      const result = newScanResult(request.length, unitSize);
      const end = request.offset + request.length;
      for (let offset = request.offset; offset < end; ) {
        if (closed) throw new Failure('shutting-down', 'the scan pool is closed');
        const stepEnd = Math.min(end, offset + SCAN_STEP_SIZE);
        const first = (offset - request.offset) / unitSize;
        if (disk.seekData(offset) >= stepEnd) {
          result.zero.fill(1, first, first + Math.ceil((stepEnd - offset) / unitSize));
        } else {
          const data = Buffer.allocUnsafe(stepEnd - offset);
          await disk.read(data, offset);
          digestUnits(data, offset, unitSize, key, result, first);
        }
        offset = stepEnd;
      }
      return result;
    },
    close() {
      closed = true;
      return Promise.resolve();
    },
  };
}
