/** The network of the operating system. */
import type { Network } from './network.ts';
import { connectLink, listenLink } from './node-link.ts';
import { connectSocket, listenSockets, peerNameOf } from './node-socket.ts';
import { NodeStream } from './node-stream.ts';

export const nodeNetwork: Network = {
  listen: (address, onStream) =>
    listenSockets(address, (socket) => onStream(new NodeStream(socket, peerNameOf(socket)))),
  async connect(address, timeoutMs) {
    const socket = await connectSocket(address, timeoutMs);
    return new NodeStream(socket, peerNameOf(socket));
  },
  listenLink: (address, tls, onStream, onRefused) => listenLink(address, tls, onStream, onRefused),
  connectLink,
};
