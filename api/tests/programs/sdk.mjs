// Reports calls through the CloudEvents SDK for JavaScript, as its users do: node sdk.mjs URL TOKEN DIRECTORY, where
// node_modules is in DIRECTORY. Prints one line for each request: what was sent, and the status of its answer.

import { createRequire } from "node:module";

const [url, token, directory] = process.argv.slice(2);
const { CloudEvent, HTTP } = createRequire(`${directory}/`)("cloudevents");

async function send(name, headers, body) {
  const answer = await fetch(url, { method: "POST", headers: { ...headers, authorization: `Bearer ${token}` }, body });
  const text = await answer.text();
  console.log(`${name} ${answer.status} ${answer.ok ? "" : text}`);
}

function event(id, data, more = {}) {
  const attributes = { id, type: "api.call", source: "https://svc.example.test/x", subject: "cust-1" };
  return new CloudEvent({ ...attributes, ...more, data });
}

const call = { endpoint: "/api/analyze", method: "POST", status_code: 200, units: 1 };
const bytes = new TextEncoder().encode(JSON.stringify(call));

for (const mode of ["binary", "structured"]) {
  for (const [name, data, more] of [
    ["object", call, {}],
    ["typed", call, { datacontenttype: "application/json", time: new Date().toISOString(), region: "eu" }],
    ["bytes", bytes, { datacontenttype: "application/json" }],
  ]) {
    const message = HTTP[mode](event(`js-${mode}-${name}`, data, more));
    await send(`${mode} ${name}`, message.headers, message.body);
  }
}

// The SDK has no batch of its own: its events are written one after the other.
const batch = JSON.stringify([event("js-batch-1", call), event("js-batch-2", bytes)]);
await send("batch", { "content-type": "application/cloudevents-batch+json" }, batch);
