// Appends every event to a file of its session.
//
// An example of a plugin of kind `command` in the mode `stream` that works on many sessions side by
// side and answers in the order in which it is done. Standard library only.
//
//     [[plugin]]
//     name = "journal"
//     kind = "command"
//     command = ["node", "/usr/local/lib/stream_plugin.mjs", "/var/lib/app/journal"]
//     mode = "stream"
//     pass_env = ["PATH"]

import { createHash } from 'node:crypto';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { argv, stderr, stdin, stdout } from 'node:process';
import { createInterface } from 'node:readline';

const directory = argv[2];
// The work on each session that has events in hand: the next one waits for it.
const busy = new Map();

async function append(event) {
  // A session's id may hold what a file's name may not.
  const name = createHash('sha256').update(event.session.id).digest('hex');
  const file = await open(join(directory, `${name}.jsonl`), 'a');
  try {
    // Readers skip an `event_id` that they have seen: it comes again when our answer was lost.
    await file.appendFile(`${JSON.stringify(event)}\n`);
    await file.datasync();
  } finally {
    await file.close();
  }
}

function answer(fields) {
  stdout.write(`${JSON.stringify(fields)}\n`);
}

async function handle(event) {
  try {
    if (event.session && !event.synthetic) await append(event);
    answer({ ack: event.event_id });
  } catch (error) {
    if (error.code === 'ENOSPC' || error.code === 'EROFS' || error.code === 'ENOENT') {
      // Not this event's fault: end, and be started again with what is not answered.
      stderr.write(`${error.message}\n`, () => process.exit(1));
    } else {
      answer({ reject: event.event_id, message: error.message });
    }
  }
}

// Ends when the gateway closes our input, and then when all that is in hand is done.
for await (const line of createInterface({ input: stdin })) {
  const event = JSON.parse(line);
  const session = event.session?.id;
  const work = (busy.get(session) ?? Promise.resolve()).then(() => handle(event));
  busy.set(session, work);
  work.then(() => {
    if (busy.get(session) === work) busy.delete(session);
  });
}
