import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import {
  answeredFailure,
  COMMANDS,
  decodeAnswer,
  decodeRequest,
  encodeAnswer,
  encodeRequest,
  failureAnswer,
} from '../../../src/control/protocol.ts';

describe('a request', () => {
  it.each(COMMANDS)('%s is one line and reads back', (command) => {
    const line = encodeRequest(command).toString();
    expect(line).toMatch(/^[^\n]*\n$/);
    expect(decodeRequest(line.trimEnd())).toBe(command);
  });

  it('to recover an image is one line and reads back, whatever the path', () => {
    fc.assert(
      fc.property(fc.string(), fc.boolean(), (image, dryRun) => {
        const request = { command: 'recover', image, dryRun } as const;
        const line = encodeRequest(request).toString();
        expect(line).toMatch(/^[^\n]*\n$/);
        expect(decodeRequest(line.trimEnd())).toEqual(request);
      }),
    );
  });

  it('to change the rate of rescans is one line and reads back, lifted or a whole number above 0', () => {
    const rate = fc.oneof(fc.constant(null), fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }));
    fc.assert(
      fc.property(rate, (bytesPerSecond) => {
        const request = { command: 'rescan-rate', bytesPerSecond } as const;
        expect(decodeRequest(encodeRequest(request).toString().trimEnd())).toEqual(request);
      }),
    );
  });

  it('of another protocol is refused as a version mismatch, before its command is looked at', () => {
    expect(() => decodeRequest('{"protocol":2,"command":"novelty"}')).toThrow(
      expect.objectContaining({ code: 'peer-version' }),
    );
  });

  it.each([
    '',
    'status',
    '[]',
    'null',
    '"status"',
    '{"protocol":1}',
    '{"protocol":1,"command":"format"}',
    '{"protocol":1,"command":"recover"}',
    '{"protocol":1,"command":"recover","image":"/a"}',
    '{"protocol":1,"command":"recover","image":7,"dryRun":false}',
    '{"protocol":1,"command":"recover","image":"/a","dryRun":"no"}',
    '{"protocol":1,"command":"rescan-rate"}',
    '{"protocol":1,"command":"rescan-rate","bytesPerSecond":0}',
    '{"protocol":1,"command":"rescan-rate","bytesPerSecond":-5}',
    '{"protocol":1,"command":"rescan-rate","bytesPerSecond":1.5}',
    '{"protocol":1,"command":"rescan-rate","bytesPerSecond":"50M"}',
    '{"protocol":1,',
  ])('%j is refused with a code', (line) => {
    expect(() => decodeRequest(line)).toThrow(Failure);
  });

  it('of arbitrary text is a command or fails with a code, never otherwise', () => {
    const property = fc.property(fc.oneof(fc.string(), fc.json()), isCommandOrFailure);
    expect(() => fc.assert(property)).not.toThrow();
  });
});

function isCommandOrFailure(line: string): boolean {
  try {
    const request = decodeRequest(line);
    return typeof request === 'string'
      ? COMMANDS.includes(request)
      : ['recover', 'rescan-rate'].includes(request.command);
  } catch (error) {
    return error instanceof Failure;
  }
}

describe('an answer', () => {
  it('reads back, whatever its kind', () => {
    for (const answer of [
      { kind: 'progress', progress: { comparedSize: 1 } },
      { kind: 'result', result: { role: 'mirror', text: 'a\nb' } },
      { kind: 'failure', code: 'not-ready', message: 'wait' },
    ] as const) {
      const line = encodeAnswer(answer).toString();
      expect(line).toMatch(/^[^\n]*\n$/);
      expect(decodeAnswer(line.trimEnd())).toEqual(answer);
    }
  });

  it.each(['', '{}', '{"kind":"result"}', '{"kind":"result","result":3}', '{"kind":"failure","code":1,"message":""}'])(
    '%j is not one',
    (line) => {
      expect(decodeAnswer(line)).toBeUndefined();
    },
  );

  it('carries a failure with its code, and anything else as a bug of the process', () => {
    expect(failureAnswer(new Failure('not-ready', 'wait'))).toEqual({
      kind: 'failure',
      code: 'not-ready',
      message: 'wait',
    });
    expect(failureAnswer(new TypeError('oops'))).toEqual({ kind: 'failure', code: 'bug', message: 'oops' });
    expect(answeredFailure('not-ready', 'wait')).toMatchObject({ code: 'not-ready', message: 'wait' });
    expect(answeredFailure('bug', 'oops')).not.toBeInstanceOf(Failure);
  });
});
