/**
 * One page of the dirty map: the marks of PAGE_REGIONS consecutive regions for one mirror. Pure.
 *
 * A page is one sector, which a disk writes whole or not at all; the CRC finds out where a disk does not. It tells all
 * that is needed to judge it by itself: whose marks they are, and the highest position at which one of *them* may have
 * been cleared. So a mixture of older and newer pages, as a power cut leaves it, is a map as good as any.
 *
 * Page (PAGE_SIZE bytes, little-endian):
 *
 * | offset | size | field                                                             |
 * | ------ | ---- | ----------------------------------------------------------------- |
 * | 0      | 4    | magic `DMAP`                                                      |
 * | 4      | 2    | version of the format, 1                                          |
 * | 6      | 2    | plane                                                             |
 * | 8      | 4    | index of the page in its plane                                    |
 * | 12     | 4    | CRC-32 of the page, this field zero                               |
 * | 16     | 8    | map version: of the group of writes that this page belongs to     |
 * | 24     | 16   | replica id of the mirror, zero before there is one                |
 * | 40     | 16   | cleared position: run; zero when no mark of the plane was cleared |
 * | 56     | 8    | cleared position: sequence                                        |
 * | 64     | 8    | cleared position: checkpoint                                      |
 * | 72     | 8    | the highest version that a mirror may have been told              |
 * | 80     | 432  | marks: region i of the page is bit i % 8 of byte i / 8            |
 */
import { crc32 } from 'node:zlib';
import { assert } from '../base/assert.ts';
import type { Bitmap } from '../base/bitmap.ts';
import { getUint64, ID_SIZE, NO_ID, putUint64 } from '../base/bytes.ts';

export const PAGE_SIZE = 512;
const HEAD_SIZE = 80;
/** Regions in a page. */
export const PAGE_REGIONS: number = (PAGE_SIZE - HEAD_SIZE) * 8;

const MAGIC = 'DMAP';
const FORMAT_VERSION = 1;
const CRC_AT = 12;

/**
 * The mirror's position when a mark was cleared: an image of it that stands lower lacks what the mark stood for.
 * A rescan moves the checkpoint only, where nothing is written meanwhile.
 */
export interface ClearedPosition {
  readonly run: Buffer;
  readonly sequence: number;
  readonly checkpoint: number;
}

export interface PageHead {
  readonly plane: number;
  readonly index: number;
  readonly version: number;
  readonly versionTold: number;
  readonly replicaId: Buffer;
  readonly cleared: ClearedPosition | undefined;
}

/** Fills `page`, PAGE_SIZE bytes; the marks are those of `marked` from region `head.index * PAGE_REGIONS` on. */
export function encodePage(page: Buffer, head: PageHead, marked: Bitmap): void {
  assert(page.length === PAGE_SIZE, 'size of a page of the dirty map');
  page.fill(0);
  page.write(MAGIC, 0, 'ascii');
  page.writeUInt16LE(FORMAT_VERSION, 4);
  page.writeUInt16LE(head.plane, 6);
  page.writeUInt32LE(head.index, 8);
  putUint64(page, 16, head.version);
  head.replicaId.copy(page, 24);
  if (head.cleared !== undefined) {
    head.cleared.run.copy(page, 40);
    putUint64(page, 56, head.cleared.sequence);
    putUint64(page, 64, head.cleared.checkpoint);
  }
  putUint64(page, 72, head.versionTold);
  const first = head.index * PAGE_REGIONS;
  const end = first + PAGE_REGIONS;
  for (let region = marked.nextSet(first); region >= 0 && region < end; region = marked.nextSet(region + 1)) {
    const bit = region - first;
    page[HEAD_SIZE + (bit >>> 3)]! |= 1 << (bit & 7);
  }
  page.writeUInt32LE(crc32(page), CRC_AT);
}

/** The head of a page; undefined when it is not whole, or of another format. Views into `page`. */
export function decodePageHead(page: Buffer): PageHead | undefined {
  if (page.length !== PAGE_SIZE || page.toString('latin1', 0, 4) !== MAGIC) return undefined;
  if (page.readUInt16LE(4) !== FORMAT_VERSION) return undefined;
  const checked = Buffer.from(page);
  checked.writeUInt32LE(0, CRC_AT);
  if (crc32(checked) !== page.readUInt32LE(CRC_AT)) return undefined;
  const version = getUint64(page, 16);
  const sequence = getUint64(page, 56);
  const checkpoint = getUint64(page, 64);
  const versionTold = getUint64(page, 72);
  if (version === undefined || versionTold === undefined) return undefined;
  if (sequence === undefined || checkpoint === undefined) return undefined;
  const run = page.subarray(40, 40 + ID_SIZE);
  return {
    plane: page.readUInt16LE(6),
    index: page.readUInt32LE(8),
    version,
    versionTold,
    replicaId: page.subarray(24, 24 + ID_SIZE),
    cleared: run.equals(NO_ID) ? undefined : { run, sequence, checkpoint },
  };
}

/** Whether the `bit`-th region of a page is marked. */
export function isMarkedIn(page: Buffer, bit: number): boolean {
  assert(bit >= 0 && bit < PAGE_REGIONS, 'region of a page');
  return (page[HEAD_SIZE + (bit >>> 3)]! & (1 << (bit & 7))) !== 0;
}
