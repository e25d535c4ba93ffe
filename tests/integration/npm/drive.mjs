// Drives the server with the published client, unchanged, and prints what it saw.
// Usage: node drive.mjs <base url> <token> <cwd> <prompts as JSON>
import { createAgentClient } from "@agent-webkit/core";

const [baseUrl, token, cwd, promptsJson] = process.argv.slice(2);
const prompts = JSON.parse(promptsJson);
const client = createAgentClient({ baseUrl, token });
const session = await client.createSession({ cwd });

const events = [];
let wake = () => {};
const reading = (async () => {
  for await (const event of session.events()) {
    events.push(event);
    wake();
  }
})();

async function until(name, count = 1) {
  for (;;) {
    const found = events.filter((event) => event.event === name);
    if (found.length >= count) return found[count - 1];
    await new Promise((resolve) => (wake = resolve));
  }
}

const ready = await until("session_ready");

await session.send(prompts.plain);
await until("result", 1);

await session.send(prompts.permission);
const permission = await until("permission_request");
await session.approve(permission.data.correlation_id);
let conflict = null;
await session.deny(permission.data.correlation_id).catch((error) => (conflict = error.status));
await until("result", 2);

await session.send(prompts.question);
const question = await until("ask_user_question");
const [asked] = question.data.questions.questions;
await session.answer(question.data.correlation_id, { [asked.question]: asked.options[0].label });
await until("result", 3);

await session.send(prompts.long);
const deltasBefore = events.filter((event) => event.event === "message_delta").length;
await until("message_delta", deltasBefore + 3);
await session.interrupt();
const interrupted = await until("result", 4);

await session.setModel("claude-sonnet-5");
await session.setPermissionMode("acceptEdits");
await session.send(prompts.model);
await until("result", 5);

// Resume in a second client from the middle of what the first has seen.
const from = 5;
const again = client.attachSession(session.id, { resumeFromEventId: String(from) });
const resumed = [];
for await (const event of again.events()) {
  resumed.push(event);
  if (event.id >= interrupted.id) break;
}
again.detach();

let tooNew = null;
const future = client.attachSession(session.id, { resumeFromEventId: "100000" });
try {
  for await (const _ of future.events()) break;
} catch (error) {
  tooNew = error.status;
}

const watcher = client.attachSession(session.id);
let attached;
const isAttached = new Promise((resolve) => (attached = resolve));
const closing = (async () => {
  let last;
  for await (const event of watcher.events()) {
    attached();
    last = event.event;
  }
  return last;
})();
await isAttached;
await session.close();
await reading;
const last = await closing;

console.log(
  JSON.stringify({ sessionId: session.id, protocolVersion: session.protocolVersion, ready,
    events, conflict, tooNew, from, resumed, interrupted, last }),
);
