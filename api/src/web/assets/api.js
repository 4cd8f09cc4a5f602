// Requests to the api, with the session's cookie and its CSRF token.
let csrf = "";

export class Refused extends Error {
  constructor(status, problem, wait) {
    const fields = (problem.errors ?? []).map((error) => error.detail);
    const said = fields.length > 0 ? fields.join(" ") : problem.detail;
    super([said ?? `The server answered ${status}.`, wait ? `Try again in ${wait} s.` : ""].join(" ").trim());
    this.status = status;
    this.code = problem.code;
  }
}

export async function ask(method, path, body) {
  const headers = {};
  if (method !== "GET" && csrf !== "") {
    headers["X-CSRF-Token"] = csrf;
  }
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
  }
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Refused(0, { detail: "The server cannot be reached." });
  }
  const text = await answer.text();
  let said = {};
  try {
    said = text === "" ? {} : JSON.parse(text);
  } catch {
    // What is no JSON says nothing more than its status.
  }
  if (!answer.ok) {
    throw new Refused(answer.status, said, answer.headers.get("Retry-After"));
  }
  csrf = said.csrf_token ?? csrf;
  return said;
}

// An element with attributes and children; text is text, never markup.
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") {
      made.addEventListener(key, value);
    } else if (value !== undefined && value !== false) {
      made.setAttribute(key, value === true ? "" : value);
    }
  }
  made.append(...children.filter((child) => child !== undefined && child !== null));
  return made;
}

export function field(label, attributes) {
  return element("label", {}, label, element("input", { required: true, ...attributes }));
}

// A form that shows what goes wrong, and cannot be sent twice.
export function form(fields, button, send) {
  const wrong = element("p", { class: "wrong", role: "alert" });
  const submit = element("button", { type: "submit" }, button);
  const made = element("form", {}, ...fields, wrong, submit);
  made.addEventListener("submit", async (event) => {
    event.preventDefault();
    submit.disabled = true;
    wrong.textContent = "";
    try {
      await send(Object.fromEntries(new FormData(made)));
    } catch (error) {
      wrong.textContent = error.message;
      made.querySelector("input")?.focus();
    } finally {
      submit.disabled = false;
    }
  });
  return made;
}
