// The queue of this process, and one JSON document per line on stdin and stdout.
'use strict';

const readline = require('readline');
const kue = require('kue');
const events = require('kue/lib/queue/events');

const options = JSON.parse(process.argv[2]);

const settings = {
  prefix: options.prefix,
  promotion: { interval: options.interval_ms || 1000 },
  redis: { port: options.redis_port, host: '127.0.0.1' },
};
if (options.ioredis) {
  // Kue builds other keys for a client whose class is named Redis: {q}:jobs instead of q:jobs. That of
  // ioredis 5 has another name, and so the usual layout.
  const Redis = require('ioredis');
  settings.redis = {
    createClientFactory: () => new Redis({ port: options.redis_port, host: '127.0.0.1' }),
  };
}

const queue = kue.createQueue(settings);
queue.on('error', (error) => print({ error: String(error) }));

function print(document) {
  process.stdout.write(JSON.stringify(document) + '\n');
}

// Publish a marker behind everything that this process has sent so far, on both connections that it writes with.
function mark(number) {
  queue.client.ping(() => events.emit(number, 'marker', number));
}

// The parent's end closes stdin, so no process outlives the tests.
function commands(handle) {
  const lines = readline.createInterface({ input: process.stdin });
  lines.on('line', (line) => {
    const command = JSON.parse(line);
    if (command.mark) return mark(command.mark);
    handle(command);
  });
  lines.on('close', () => process.exit(0));
}

module.exports = { kue, queue, options, print, commands };
