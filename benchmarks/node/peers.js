// The hospital's servers, as quick as they can be: location service, image server, loader. All answers lie
// in memory, so that what is measured is the client. Options: argv[2] = {"picture": FILE, "side_px": N}.
'use strict';

const fs = require('fs');
const http = require('http');

const options = JSON.parse(process.argv[2]);
const picture = fs.readFileSync(options.picture);
const width = 100000;
const height = 100000;
const seen = {}; // left edge of a region -> [ms since the epoch of each request]
let uploads = 0;
let uploadedBytes = 0;

function json(answer, document) {
  const body = Buffer.from(JSON.stringify(document));
  answer.writeHead(200, { 'Content-Type': 'application/json', 'Content-Length': body.length });
  answer.end(body);
}

function get(url, answer) {
  if (url.pathname.endsWith('/getFileLocationByIID')) {
    return json(answer, [{ 'file-location': '/data/' + url.searchParams.get('TCGAId') + '.svs' }]);
  }
  if (url.pathname.endsWith('/getImageInfoByCaseID')) {
    const name = url.searchParams.get('case_id');
    return json(answer, [{ case_id: name, 'file-location': '/data/' + name + '.svs', width, height, 'mpp-x': 0.25, 'mpp-y': 0.25 }]);
  }
  if (url.pathname.endsWith('/info.json')) {
    return json(answer, { width, height, profile: ['http://iiif.io/api/image/2/level1.json', {}] });
  }
  // Smaller sizes are not made, as by old image servers: the picture is the same.
  const region = /\/(\d+),(\d+),(\d+),(\d+)\/(?:full|\d+,)\/0\//.exec(url.pathname);
  if (region) {
    (seen[region[1]] = seen[region[1]] || []).push(performance.timeOrigin + performance.now());
    answer.writeHead(200, { 'Content-Type': 'image/jpeg', 'Content-Length': picture.length });
    return answer.end(picture);
  }
  if (url.pathname === '/seen') return json(answer, { seen, uploads, uploadedBytes });
  answer.writeHead(404);
  return answer.end();
}

const server = http.createServer((request, answer) => {
  if (request.method === 'GET') {
    request.resume();
    return get(new URL(request.url, 'http://peers'), answer);
  }
  request.on('data', (chunk) => { uploadedBytes += chunk.length; });
  return request.on('end', () => {
    uploads += 1;
    json(answer, { Status: 'Queued', id: uploads });
  });
});
server.keepAliveTimeout = 60000;
server.listen(0, '127.0.0.1', () => process.stdout.write(JSON.stringify({ ready: server.address().port }) + '\n'));
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
