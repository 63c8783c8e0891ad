import {
  Command,
  encodeOptionExtendedHeaders,
  encodeOptionGo,
  encodeOptionSetMetaContext,
  encodeOptionStructuredReply,
  encodeRequest,
  type Reply,
  ReplyDecoder,
  type ReplyMode,
  type RequestHeader,
} from 'nbd-protocol';
import { type InMemory, type InMemoryOptions, RawPeer, serveInMemory, settle } from './nbd-in-memory.ts';

/** Holds back calls of the disk; `go` lets the oldest one through. */
export function gate(served: InMemory, matches: (call: string, offset: number) => boolean) {
  const waiting: { call: string; offset: number; go: () => void; fail: (error: Error) => void }[] = [];
  served.disk.hook = (call, offset) => {
    if (!matches(call, offset)) return;
    return new Promise<void>((go, fail) => waiting.push({ call, offset, go, fail }));
  };
  return waiting;
}

/** A raw connection past the handshake, and a decoder of what follows. */
export async function enter(mode: ReplyMode, options: InMemoryOptions = {}, contexts: string[] = []) {
  const served = await serveInMemory(options);
  const peer = new RawPeer(await served.network.connect({ kind: 'unix', path: 'nbd' }));
  await peer.greet();
  if (mode === 'structured') await peer.ask(encodeOptionStructuredReply());
  if (mode === 'extended') await peer.ask(encodeOptionExtendedHeaders());
  if (contexts.length > 0) await peer.ask(encodeOptionSetMetaContext('disk', contexts));
  await peer.ask(encodeOptionGo('disk'));
  let taken = peer.received.length;
  const lengths = new Map<number, number>();
  const decoder = new ReplyDecoder({ mode, lengthOf: (_, cookie) => lengths.get(cookie) });
  let cookie = 0;
  const send = (request: Partial<RequestHeader> & { command: number }, data?: Uint8Array): number => {
    cookie += 1;
    const header = { offset: 0, length: data?.length ?? 0, ...request, cookieHigh: 7, cookieLow: cookie };
    lengths.set(cookie, request.command === Command.READ ? header.length : 0);
    const bytes = encodeRequest(header, mode === 'extended');
    if (data === undefined) peer.send(bytes);
    else peer.send(bytes, data);
    return cookie;
  };
  const replies = async (): Promise<Reply[]> => {
    await settle();
    decoder.push(peer.received.subarray(taken));
    taken = peer.received.length;
    const found: Reply[] = [];
    for (let reply = decoder.next(); reply !== undefined; reply = decoder.next()) found.push(reply);
    return found;
  };
  /** The error with which a request is answered, 0 when it succeeds. */
  const errorOf = async (request: Partial<RequestHeader> & { command: number }, data?: Uint8Array): Promise<number> => {
    send(request, data);
    for (const reply of await replies()) if ('error' in reply && reply.error !== 0) return reply.error;
    return 0;
  };
  return { ...served, peer, send, replies, errorOf };
}
