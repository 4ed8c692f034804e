// Holds sessions: they end when this program dies.
//
// It tells the gateway of its sessions, and keeps a connection open as its sign of life. Killed, it can
// tell nobody: the connection drops, and its sessions end with the reason `lost`. A gateway that is
// restarted leaves them active until the program is back. Standard library only.
//
//     node holder.mjs sess-1 sess-2
//
// starts those two. A line on standard input is the id of a session: it starts, or ends if it is active.
// SIGTERM or Ctrl-C end them all.

import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { argv, env, exit, stdin } from 'node:process';
import { createInterface } from 'node:readline';
import { json } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';

// `session-supervisor run` sets these for its program.
const url = env.SESSION_SUPERVISOR_URL || 'http://127.0.0.1:7467';
const token = env.SESSION_SUPERVISOR_TOKEN;
const holder = env.SESSION_SUPERVISOR_HOLDER || 'holder.mjs';
// Another one for each process: it tells a program that was started again from one that is back.
const runId = env.SESSION_SUPERVISOR_RUN_ID || randomUUID();
const graceMs = Number(env.HOLDER_GRACE_MS || 5000); // to be back in after a connection broke
const lease = `/v1/holders/${encodeURIComponent(holder)}`;
const { request } = await import(url.startsWith('https:') ? 'node:https' : 'node:http');

const sessions = new Map(); // the incarnation of each active session, by its id
let stopping = false;

// What may not happen side by side: a list of sessions that is on its way would end one that starts.
let turn = Promise.resolve();
const inTurn = (work) => {
  const done = turn.then(work);
  turn = done.catch(() => {});
  return done;
};

async function send(method, path, body) {
  const headers = { 'content-type': 'application/json' };
  if (token) headers.authorization = `Bearer ${token}`;
  const sent = request(url.replace(/\/$/, '') + path, { method, headers, agent: false });
  // Even a hold's stream has a comment every few seconds: after more silence nobody is there.
  sent.setTimeout(20_000, () => sent.destroy(new Error('no sign of life')));
  sent.on('error', () => {}); // whoever waits for the answer, or reads it, hears of it
  sent.end(JSON.stringify(body));
  const [answer] = await once(sent, 'response');
  if (answer.statusCode < 400) return answer;
  const problem = new Error(JSON.stringify(await json(answer)));
  // Asking again does not help, unless it is for a place.
  problem.refused = answer.statusCode < 500 && answer.statusCode !== 429;
  throw problem;
}

// Asks again while the gateway is away: nothing happens twice that is asked for twice.
async function ask(method, path, body, patience = 60_000) {
  for (let pause = 100, until = Date.now() + patience; ; pause = Math.min(2 * pause, 2000)) {
    try {
      return await json(await send(method, path, body));
    } catch (error) {
      if (error.refused || Date.now() > until) throw error;
      await sleep(pause);
    }
  }
}

const start = (id) => inTurn(async () => {
  const session = await ask('POST', '/v1/sessions', { id, holder, run_id: runId });
  sessions.set(id, session.incarnation);
  console.log(`session ${id} started`);
});

async function end(id) {
  // With its incarnation, so that no session ends that has started under this id since.
  const incarnation = sessions.get(id);
  if (!incarnation) return; // it has ended by itself
  const body = { reason: 'completed', incarnation };
  const session = await ask('POST', `/v1/sessions/${encodeURIComponent(id)}/end`, body);
  ended(id, incarnation, session.reason);
}

function ended(id, incarnation, reason) {
  if (sessions.get(id) !== incarnation) return;
  sessions.delete(id);
  console.log(`session ${id} ended: ${reason}`);
}

// Learns and tells what either side has missed. The list has to be whole, and fit into 64 KiB.
const reconcile = () => inTurn(async () => {
  const listed = new Map(sessions);
  const body = { run_id: runId, ids: [...listed.keys()] };
  const { not_active } = await ask('PUT', `${lease}/sessions`, body);
  for (const id of not_active) ended(id, listed.get(id), 'unseen');
});

// Holds by a connection, and by another when it breaks off.
async function hold() {
  for (let pause = 100; !stopping; pause = Math.min(2 * pause, 2000)) {
    try {
      const stream = await send('POST', `${lease}/hold`, { run_id: runId, grace_ms: graceMs });
      await reconcile();
      console.log('holding');
      pause = 50;
      let event;
      for await (const line of createInterface({ input: stream })) {
        if (line.startsWith('event: ')) event = line.slice(7);
        if (!line.startsWith('data: ')) continue;
        if (event === 'gap') await reconcile();
        if (event !== 'ended') continue;
        const { session, reason } = JSON.parse(line.slice(6));
        ended(session.id, session.incarnation, reason);
      }
      throw new Error('the gateway has closed the connection');
    } catch (error) {
      if (stopping) return;
      console.log(`${error.refused ? 'refused' : 'not connected'}: ${error.message}`);
      if (error.refused) exit(1); // such as when another process of this holder has taken over
      await sleep(pause);
    }
  }
}

async function stop() {
  stopping = true;
  // With its run: the sessions of another process that has taken over go on.
  const body = { reason: 'shutdown', run_id: runId };
  try {
    const { ended: count } = await ask('POST', `${lease}/end`, body, 3000);
    console.log(`stopped, ${count} sessions ended`);
    exit(0);
  } catch (error) {
    console.log(`not stopped in order: ${error.message}`);
    exit(1);
  }
}

process.on('SIGTERM', stop).on('SIGINT', stop);
hold();
for (const id of argv.slice(2)) await start(id);
for await (const id of createInterface({ input: stdin })) {
  const done = sessions.has(id) ? end(id) : start(id);
  await done.catch((refusal) => console.log(`refused: ${refusal.message}`));
}
