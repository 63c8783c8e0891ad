import { InvalidArgumentError } from 'commander';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { MIB } from '../../../src/base/units.ts';
import {
  collect,
  countParser,
  parseDuration,
  parseRate,
  secretSources,
  sizeOrNoneParser,
  sizeParser,
} from '../../../src/cli/options.ts';

afterEach(() => vi.unstubAllEnvs());

describe('values of options', () => {
  it('sizes lie within their bounds, both included', () => {
    const parse = sizeParser(MIB, 4 * MIB);
    expect([parse('1M'), parse('4M'), parse('1.5MiB')]).toEqual([MIB, 4 * MIB, 1.5 * MIB]);
    for (const text of ['1048575', '4194305', '', 'M', '-1M', '1Q'])
      expect(() => parse(text)).toThrow(InvalidArgumentError);
  });

  it('a size that may be left out is 0 or within its bounds', () => {
    const parse = sizeOrNoneParser(MIB, 4 * MIB);
    expect([parse('0'), parse('0K'), parse('1M')]).toEqual([0, 0, MIB]);
    for (const text of ['1', '1023K', '5M', '-0', 'none']) expect(() => parse(text)).toThrow(InvalidArgumentError);
  });

  it('durations have a unit and fit a timer', () => {
    expect(['500ms', '10s', '5m', '1h', '7d', '0s'].map(parseDuration)).toEqual([
      ...[500, 10_000, 300_000, 3_600_000, 604_800_000, 0],
    ]);
    for (const text of ['10', 's', '-1s', '25d', '1w']) expect(() => parseDuration(text)).toThrow(InvalidArgumentError);
  });

  it('rates are sizes per second', () => {
    expect([parseRate('50M'), parseRate('50M/s')]).toEqual([50 * MIB, 50 * MIB]);
    for (const text of ['0', '100', 'M/s', '5M/h']) expect(() => parseRate(text)).toThrow(InvalidArgumentError);
  });

  it('counts are whole numbers within bounds', () => {
    const parse = countParser(1, 64);
    expect([parse('1'), parse('64')]).toEqual([1, 64]);
    for (const text of ['0', '65', '1.5', '-1', '0x10', '']) expect(() => parse(text)).toThrow(InvalidArgumentError);
  });

  it('options that are repeated are gathered in order', () => {
    const gather = collect(Number);
    expect(gather('2', gather('1', undefined))).toEqual([1, 2]);
  });
});

describe('the secret', () => {
  it('is taken out of the environment, so that no child gets it', () => {
    vi.stubEnv('NBDTWIN_SECRET', 'from the environment');
    expect(secretSources({ secretFile: 'twin.key' })).toEqual({
      file: 'twin.key',
      flag: undefined,
      environment: 'from the environment',
    });
    expect(process.env['NBDTWIN_SECRET']).toBeUndefined();
  });
});
