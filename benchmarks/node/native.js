// A native Kue worker that does the four steps of an order by itself, as one would write it: kept connections,
// one child process for each run, four reports of progress. No leases, no checks, no limits.
'use strict';

const { createRequire } = require('module');
const { execFile } = require('child_process');
const fs = require('fs');
const http = require('http');
const os = require('os');
const path = require('path');

const { queue, options, print, commands } = createRequire(process.cwd() + '/')('./queue');

const agent = new http.Agent({ keepAlive: true, maxSockets: options.concurrency });

function ask(url, settings, body, done) {
  const request = http.request(url, { agent, ...settings }, (answer) => {
    const chunks = [];
    answer.on('data', (chunk) => chunks.push(chunk));
    answer.on('end', () => {
      if (answer.statusCode !== 200) return done(new Error(url + ' answered ' + answer.statusCode));
      return done(null, Buffer.concat(chunks));
    });
  });
  request.on('error', done);
  request.end(body);
}

function upload(caseId, zip, done) {
  const boundary = 'native' + process.hrtime.bigint();
  const body = Buffer.concat([
    Buffer.from('--' + boundary + '\r\nContent-Disposition: form-data; name="case_id"\r\n\r\n' + caseId + '\r\n--' +
      boundary + '\r\nContent-Disposition: form-data; name="zip"; filename="output.zip"\r\n' +
      'Content-Type: application/zip\r\n\r\n'),
    zip, Buffer.from('\r\n--' + boundary + '--\r\n'),
  ]);
  const headers = { 'Content-Type': 'multipart/form-data; boundary=' + boundary, 'Content-Length': body.length };
  ask(options.peers + '/submitZipOrder', { method: 'POST', headers }, body, done);
}

function work(job, done) {
  const order = job.data.order;
  const caseId = order.image.case_id;
  const roi = order.roi;
  const failed = (error) => done(error);
  job.progress(5, 100);
  ask(options.peers + '/query/getFileLocationByIID?TCGAId=' + caseId, {}, null, (error, text) => {
    if (error) return failed(error);
    const place = JSON.parse(text)[0]['file-location'];
    const region = [roi.x, roi.y, roi.w, roi.h].join(',');
    return ask(options.peers + place + '/' + region + '/full/0/default.jpg', {}, null, (noPicture, picture) => {
      if (noPicture) return failed(noPicture);
      return fs.mkdtemp(path.join(options.scratch, 'native-'), (noFolder, folder) => {
        if (noFolder) return failed(noFolder);
        const zip = path.join(folder, 'output.zip');
        return fs.writeFile(path.join(folder, 'tile.jpg'), picture, (notWritten) => {
          if (notWritten) return failed(notWritten);
          job.progress(10, 100);
          return execFile(options.program[0], [...options.program.slice(1), zip], (notRun) => {
            if (notRun) return failed(notRun);
            job.progress(90, 100);
            return fs.readFile(zip, (notRead, bytes) => {
              if (notRead) return failed(notRead);
              return upload(caseId, bytes, (notSent, answer) => {
                if (notSent) return failed(notSent);
                job.progress(95, 100);
                return fs.rm(folder, { recursive: true, force: true }, () => {
                  done(null, { place: 'loader job ' + JSON.parse(answer).id });
                });
              });
            });
          });
        });
      });
    });
  });
}

commands((command) => {
  if (command.go) queue.process(options.type, options.concurrency, work);
});
queue.client.ping(() => print({ ready: os.hostname() }));
