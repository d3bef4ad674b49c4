// Kue's JSON API and pages. Kue evaluates code that is posted to it (a job's `backoff`), and anybody may delete
// jobs; so there is a password in front, and only GET /healthz goes without.
'use strict';

const crypto = require('crypto');
const fs = require('fs');
const http = require('http');
const kue = require('kue');

const secret = (name) => fs.readFileSync(`/run/secrets/${name}`, 'utf8').trim();
const digest = (text) => crypto.createHash('sha256').update(text).digest();

// createQueue comes before kue.app: the application takes the queue that is there.
const queue = kue.createQueue({
  prefix: process.env.KUE_PREFIX || 'q',
  redis: {
    host: process.env.REDIS_HOST || 'redis',
    port: Number(process.env.REDIS_PORT || 6379),
    auth: secret('redis_password'),
  },
});
queue.on('error', (error) => console.error(JSON.stringify({ level: 'error', event: String(error) })));
kue.app.set('title', 'Orders');

const expected = digest(`dynsvc:${secret('kue_password')}`);

function allowed(request) {
  const [scheme, token] = (request.headers.authorization || '').split(' ');
  const given = scheme === 'Basic' && token ? Buffer.from(token, 'base64').toString() : '';
  return crypto.timingSafeEqual(digest(given), expected);
}

function answer(response, status, text, headers = {}) {
  response.writeHead(status, { 'Content-Type': 'text/plain', ...headers });
  response.end(text);
}

function health(response) {
  // A client that has lost Redis holds commands back; no answer in time is an answer as well.
  const late = setTimeout(() => answer(response, 503, 'Redis does not answer\n'), 3000);
  queue.client.ping((error) => {
    clearTimeout(late);
    if (!response.headersSent) answer(response, error ? 503 : 200, error ? 'Redis is away\n' : 'ok\n');
  });
}

const server = http.createServer((request, response) => {
  if (request.method === 'GET' && request.url === '/healthz') return health(response);
  if (!allowed(request)) {
    return answer(response, 401, 'a password is needed\n', { 'WWW-Authenticate': 'Basic realm="orders"' });
  }
  // Kue counts the digits of an id in a loop that has no end for 100 of them.
  if (/[^/]{100}/.test(request.url.split('?')[0])) return answer(response, 404, 'no such job\n');
  return kue.app(request, response);
});
server.listen(Number(process.env.PORT || 3000), () => console.log(JSON.stringify({ event: 'Kue listens' })));

for (const signal of ['SIGTERM', 'SIGINT']) {
  process.on(signal, () => {
    server.close();
    queue.shutdown(3000, () => process.exit(0));
  });
}
