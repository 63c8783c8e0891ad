#!/usr/bin/env node
'use strict';

// The size of the thread pool counts only before its first use, and loading a module of the new kind is one: hence this file is
// of the old kind (package.json beside it). Requests that wait for a disk each occupy a thread; Node alone would have four.
process.env['UV_THREADPOOL_SIZE'] ??= '16';
void import('../dist/cli/main.js');
