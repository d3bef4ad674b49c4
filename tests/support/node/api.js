// Kue's JSON API and pages. Never processes a job.
'use strict';

const { kue, options, print, commands } = require('./queue');

const server = kue.app.listen(options.port || 0, '127.0.0.1', () => print({ ready: server.address().port }));
commands(() => {});
