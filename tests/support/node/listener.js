// Creates jobs on command, and prints every event that a Node program sees.
'use strict';

const { kue, queue, print, commands } = require('./queue');

const events = ['enqueue', 'start', 'promotion', 'progress', 'error', 'failed attempt', 'failed', 'complete',
  'remove', 'ttl exceeded', 'marker'];
events.forEach((name) => {
  queue.on('job ' + name, (id, ...rest) => print({ queue: name, id, args: rest }));
});

function create(command) {
  const job = queue.create(command.type, command.data);
  ['priority', 'attempts', 'delay', 'ttl', 'backoff', 'removeOnComplete'].forEach((option) => {
    if (command[option] !== undefined) job[option](command[option]);
  });
  events.forEach((name) => {
    job.on(name, (...rest) => print({ job: name, id: job.id, args: rest }));
  });
  job.save((error) => print(error ? { refused: String(error) } : { created: job.id }));
}

commands((command) => {
  if (command.create) create(command.create);
  if (command.requeue) {
    kue.Job.get(command.requeue, (error, job) => {
      if (error) return print({ refused: String(error) });
      job.inactive(() => print({ requeued: command.requeue }));
    });
  }
});
queue.client.ping(() => print({ ready: true }));
