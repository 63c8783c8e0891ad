#!/usr/bin/env -S node --single-threaded-gc
'use strict';

// --single-threaded-gc: buffers of what passes through have the collector run many times a second over a small heap; its helpers
// would take processors from the event loop and the clients (docs/decisions/0022). It must be set before V8 starts.

// The size of the thread pool counts only before its first use, and loading a module of the new kind is one: hence this file is
// of the old kind (package.json beside it). Requests that wait for a disk each occupy a thread; Node alone would have four.
process.env['UV_THREADPOOL_SIZE'] ??= '16';
void import('../dist/cli/main.js');
