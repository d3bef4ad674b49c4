// Kue's own arithmetic for the delay before a retry. One case per line: [backoff, delay, attempts].
'use strict';

const readline = require('readline');
const Job = require('kue/lib/queue/job');

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const [backoff, delay, attempts] = JSON.parse(line);
  const job = new Job('order', {});
  job._backoff = backoff === null ? undefined : eval('(' + backoff + ')');
  job._delay = delay === null ? undefined : delay;
  if (!job.backoff()) return console.log('null');
  let next = job.delay();
  const policy = job._getBackoffImpl();
  if (typeof policy === 'function') next = policy.apply(job, [attempts, next]);
  job.delay(next);
  console.log(JSON.stringify([job._delay ? String(job._delay) : null, job._delay ? parseInt(job._delay) : null]));
});
