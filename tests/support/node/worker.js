// A native worker. What it does with a job stands in the job or in the options: one list of steps for each
// attempt.
'use strict';

const { queue, options, print, commands } = require('./queue');

function whenReleased(next) {
  queue.client.exists('release', (error, found) => {
    if (found) return next();
    setTimeout(() => whenReleased(next), 20);
  });
}

function failure(description) {
  if (typeof description === 'string') return description;
  if (!description.stack) return { message: description.message };
  const error = new Error(description.message);
  error.stack = description.stack;
  return error;
}

function follow(steps, job, done) {
  const [step, ...rest] = steps[0] || ['done'];
  const next = () => follow(steps.slice(1), job, done);
  if (step === 'progress') {
    job.progress(...rest);
    return next();
  }
  if (step === 'log') {
    job.log(rest[0]);
    return next();
  }
  if (step === 'hold') return whenReleased(next);
  if (step === 'sleep') return setTimeout(next, rest[0]);
  if (step === 'fail') return done(failure(rest[0]));
  return done(null, rest[0]);
}

queue.process(options.type, options.concurrency || 1, (job, done) => {
  print({ began: job.id });
  const attempts = options.attempts || (job.data && job.data.attempts) || [[]];
  follow(attempts[Math.min(job._attempts || 0, attempts.length - 1)], job, done);
});
commands(() => {});
queue.client.ping(() => print({ ready: true }));
