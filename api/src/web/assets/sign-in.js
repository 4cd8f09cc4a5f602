// Signing in: by password, GitHub, link or invitation, and the second factor.
import { ask, element, field, form } from "/assets/api.js";
import { placeOf } from "/assets/next.js";

// What stands behind the # is a secret: it leaves the address bar before anything else.
const secret = new URLSearchParams(location.hash.slice(1));
const query = new URLSearchParams(location.search);
history.replaceState(null, "", location.pathname + location.search);

const place = placeOf(query.get("next"), location.origin);
const main = document.querySelector("main");
const problems = {
  expired: "The sign-in took too long, or was begun in another browser. Please begin again.",
  denied: "GitHub did not let you in.",
  away: "GitHub does not answer. Please try again later.",
  refused: "GitHub did not take the sign-in. Please begin again.",
  not_linked: "No account here is linked to your GitHub account. Sign in another way, and link it on your page.",
  taken: "That GitHub account is linked to another account, or yours has one already.",
  barred: "This account may not be used.",
  failed: "Something went wrong. Please try again.",
};

function show(title, ...parts) {
  const heading = element("h1", { tabindex: "-1" }, title);
  main.replaceChildren(heading, ...parts.filter(Boolean));
  (main.querySelector("input") ?? heading).focus();
}

function card(...parts) {
  return element("section", {}, ...parts);
}

function signedIn(answer) {
  if (answer.needs_second_factor) {
    secondFactor();
  } else {
    location.replace(place);
  }
}

function secondFactor() {
  const code = field("Code of your authenticator app", {
    name: "code", autocomplete: "one-time-code", inputmode: "numeric", pattern: "[0-9]{6}", maxlength: "6",
  });
  const recovery = field("Recovery code", { name: "recovery_code", autocomplete: "off", spellcheck: "false" });
  const verify = async (body) => signedIn(await ask("POST", "/api/auth/factors/verify", body));
  show(
    "Second step",
    card(form([code], "Go on", verify)),
    card(element(
      "details",
      {},
      element("summary", {}, "The app is lost"),
      form([recovery], "Use a recovery code", verify),
    )),
    element("button", { class: "plain", type: "button", click: async () => {
      await ask("POST", "/api/auth/logout").catch(() => {});
      start();
    } }, "Sign in as somebody else"),
  );
}

function newPassword() {
  return field("New password", { name: "password", type: "password", autocomplete: "new-password", minlength: "8" });
}

function byLink(token) {
  // A button: programs that look at links in mail run scripts too, and would use the link up.
  const send = async () => signedIn(await ask("POST", "/api/auth/link", { token }));
  show("Sign in", card(element("p", {}, "This link signs you in, once."), form([], "Sign in", send)));
}

function byReset(token) {
  const send = async ({ password }) => signedIn(await ask("POST", "/api/auth/reset", { token, password }));
  show("Set a new password", card(form([newPassword()], "Set it, and sign in", send)));
}

function byInvitation(invitation) {
  const name = field("Your name", { name: "name", autocomplete: "name", required: false });
  const send = async (given) => {
    const body = { invitation, password: given.password };
    if (given.name !== "") {
      body.name = given.name;
    }
    signedIn(await ask("POST", "/api/auth/register", body));
  };
  const words = element("p", {}, "Choose a password for your account.");
  show("Welcome", card(words, form([name, newPassword()], "Make the account", send)));
}

function email() {
  return field("E-mail", { name: "email", type: "email", autocomplete: "username" });
}

function register() {
  const send = async (body) => {
    await ask("POST", "/api/auth/register", body);
    signedIn(await ask("POST", "/api/auth/login", body));
  };
  const back = element("button", { class: "plain", type: "button", click: start }, "I have an account");
  show("Make an account", card(form([email(), newPassword()], "Make it, and sign in", send)), back);
}

async function start() {
  const methods = await ask("GET", "/api/auth/methods").catch(() => ({}));
  const password = field("Password", { name: "password", type: "password", autocomplete: "current-password" });
  const send = async (body) => signedIn(await ask("POST", "/api/auth/login", body));
  const github = `/api/auth/github?next=${encodeURIComponent(place)}`;
  const asked = query.get("problem");
  const problem = Object.hasOwn(problems, asked) ? problems[asked] : undefined;
  show(
    "Sign in",
    problem && element("p", { class: "wrong", role: "alert" }, problem),
    card(form([email(), password], "Sign in", send)),
    element(
      "div",
      { class: "row" },
      methods.github ? element("a", { class: "button plain", href: github }, "Sign in with GitHub") : undefined,
      methods.registration === "open"
        ? element("button", { class: "plain", type: "button", click: register }, "Make an account")
        : undefined,
    ),
  );
}

async function begin() {
  for (const [kind, then] of [["link", byLink], ["reset", byReset], ["invitation", byInvitation]]) {
    if (secret.get(kind)) {
      return then(secret.get(kind));
    }
  }
  const session = await ask("GET", "/api/auth/session").catch(() => undefined);
  if (session?.needs_second_factor) {
    return secondFactor();
  }
  return session && !query.has("problem") ? location.replace(place) : start();
}

// Another link that is pasted into this tab is another beginning.
addEventListener("hashchange", () => location.reload());
begin();
