#!/usr/bin/env node
// A receiver of Bindery's webhooks: a table of users, and a log of what happens to them.
//
//     webhook.mjs PORT SECRET USERS [LOG [CERTIFICATE KEY]]
//
// USERS has lines `name password [target]`: where calls to `name` go, if not to its phones. Each
// notification is written to LOG, once, as a line of JSON. With a certificate and its key it speaks
// TLS, HTTP/2 and HTTP/1.1. Needs nothing but Node; docs/webhooks.md says what is sent.

import { createHmac, timingSafeEqual } from 'node:crypto';
import { appendFileSync, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createSecureServer } from 'node:http2';

// Requests that are older, in seconds, were not sent now: somebody has kept them.
const TOLERANCE = 300;
// Deliveries that are remembered. Bindery sends one again only while it is not sure of it.
const REMEMBERED = 100_000;

const [port, secret, usersFile, log, certificate, key] = process.argv.slice(2);
if (usersFile === undefined) {
  console.error('usage: webhook.mjs PORT SECRET USERS [LOG [CERTIFICATE KEY]]');
  process.exit(1);
}

// Whether `header` is a signature of `body`: `t=UNIX,v1=HEX`, of `UNIX.BODY`.
function isSigned(header, body) {
  const fields = Object.fromEntries(
    header.split(',').map((field) => [field.slice(0, field.indexOf('=')), field.slice(field.indexOf('=') + 1)]),
  );
  const { t = '', v1 = '' } = fields;
  if (!/^\d+$/.test(t) || Math.abs(Date.now() / 1000 - Number(t)) > TOLERANCE) return false;
  const expected = createHmac('sha256', secret).update(`${t}.`).update(body).digest();
  const given = Buffer.from(v1, 'hex');
  return given.length === expected.length && timingSafeEqual(given, expected);
}

// The table, read again for each question.
function user(name) {
  for (const line of readFileSync(usersFile, 'utf8').split('\n')) {
    const [known, password, ...targets] = line.trim().split(/\s+/);
    if (known === name && password !== undefined) return { password, targets };
  }
  return undefined;
}

// What a question is answered with; undefined is "not mine".
function answer(event, params) {
  if (event === 'auth') {
    const found = user(params.username);
    return found && { password: found.password };
  }
  if (event === 'route') {
    const found = user(params.called);
    return found?.targets.length ? { targets: found.targets } : undefined;
  }
  // Register: no objection, but to these.
  return params.username?.startsWith('blocked') ? { refuse: { code: 403, reason: 'forbidden' } } : {};
}

// Ids of what is in the log, so that what comes twice is there once.
const noted = new Set();
let isTorn = false;
// Returns once it is written: what was answered is not sent again.
function note(request) {
  if (noted.has(request.id)) return;
  const start = isTorn ? '\n' : '';
  isTorn = true;
  appendFileSync(log || 1, `${start}${JSON.stringify(request)}\n`);
  isTorn = false;
  // Only now: what failed is sent again under the same id, and must not be taken for known.
  noted.add(request.id);
  if (noted.size > REMEMBERED) noted.delete(noted.values().next().value);
}

async function receive(request, response) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks);
  const reply = (status, said) => {
    response.statusCode = status;
    if (said === undefined) return response.end();
    response.setHeader('content-type', 'application/json');
    return response.end(JSON.stringify(said));
  };
  if (!isSigned(request.headers['bindery-signature'] ?? '', body)) {
    console.error('a request with a wrong signature');
    return reply(401);
  }
  const said = JSON.parse(body);
  if (['auth', 'register', 'route'].includes(said.event)) {
    const answered = answer(said.event, said.params);
    return reply(answered === undefined ? 204 : 200, answered);
  }
  note({ ...said, httpVersion: request.httpVersion });
  return reply(204);
}

const handle = (request, response) => {
  receive(request, response).catch((error) => {
    console.error(error.message);
    response.statusCode = 500;
    response.end();
  });
};

const server = certificate
  ? createSecureServer({ cert: readFileSync(certificate), key: readFileSync(key), allowHTTP1: true }, handle)
  : createServer({ keepAliveTimeout: 30_000 }, handle);
server.listen(Number(port), '127.0.0.1', () => console.error(`listening on ${server.address().port}`));
