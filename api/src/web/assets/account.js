// One's own account: usage, password, second factors, sessions, and what happened to it.
import { ask, element, field, form } from "/assets/api.js";

const main = document.querySelector("main");
// Entries of the log that are shown at a time.
const LOG_PAGE = 10;
const time = (at) => (at ? new Date(at).toLocaleString() : "never");

function card(title, ...parts) {
  return element("section", {}, element("h2", {}, title), ...parts);
}

function button(text, does, kind = "plain") {
  const made = element("button", { type: "button", class: kind }, text);
  made.addEventListener("click", async () => {
    made.disabled = true;
    await does().catch((error) => alertOf(made, error.message));
    made.disabled = false;
  });
  return made;
}

function alertOf(where, text) {
  where.parentNode?.querySelector(".wrong")?.remove();
  where.after(element("p", { class: "wrong", role: "alert" }, text));
}

function pairs(entries) {
  const shown = entries.filter(([, value]) => value !== null && value !== undefined && value !== "");
  const pair = ([name, value]) => [element("dt", {}, name), element("dd", {}, `${value}`)];
  return element("dl", {}, ...shown.flatMap(pair));
}

function usage(stats) {
  const meter = (name) => {
    const { used, limit } = stats[name] ?? {};
    return [name, used === undefined ? undefined : `${used} of ${limit ?? "no limit"}`];
  };
  return card("This month", pairs([["plan", stats.plan?.plan_name], meter("total"), meter("analyze")]));
}

function passwordCard(me) {
  const fields = [
    element("input", { type: "hidden", name: "username", autocomplete: "username", value: me.sign_in.email ?? "" }),
    me.sign_in.has_password
      ? field("Password until now", { name: "current_password", type: "password", autocomplete: "current-password" })
      : undefined,
    field("New password", { name: "password", type: "password", autocomplete: "new-password", minlength: "8" }),
  ];
  const send = async ({ current_password, password }) => {
    await ask("POST", "/api/users/me/password", { current_password, password });
    await show();
  };
  return card("Password", form(fields, "Set it", send));
}

function codesCard(codes) {
  return card(
    "Your recovery codes",
    element("p", {}, "Each lets you in once if the app is lost. They are shown now and never again: keep them safe."),
    element("ul", { class: "codes" }, ...codes.map((code) => element("li", {}, code))),
    button("Copy", () => navigator.clipboard.writeText(codes.join("\n"))),
    button("I have kept them", show, ""),
  );
}

function setUp(me) {
  const fields = me.sign_in.has_password
    ? [field("Your password", { name: "current_password", type: "password", autocomplete: "current-password" })]
    : [];
  const begin = async ({ current_password }) => {
    const setup = await ask("POST", "/api/auth/factors", { kind: "totp", current_password });
    const code = field("Code that the app shows", {
      name: "code", autocomplete: "one-time-code", inputmode: "numeric", pattern: "[0-9]{6}", maxlength: "6",
    });
    const confirm = async (body) => {
      const done = await ask("POST", `/api/auth/factors/${setup.factor_id}/confirm`, body);
      await show(done.recovery_codes);
    };
    const picture = `data:image/svg+xml,${encodeURIComponent(setup.qr_svg)}`;
    main.replaceChildren(card(
      "Set an authenticator app up",
      element("p", {}, "Scan the picture with the app, or type the secret into it."),
      element("img", { class: "qr", alt: "QR code of the secret", src: picture }),
      element("p", {}, element("code", {}, setup.secret)),
      form([code], "Confirm", confirm),
      button("Not now", show),
    ));
    main.querySelector("input")?.focus();
  };
  return form(fields, "Set an authenticator app up", begin);
}

function factorsCard(me, { factors, recovery_codes_left }) {
  const confirmed = factors.filter((factor) => factor.confirmed_at !== null);
  const entry = (factor) => element(
    "li",
    { class: "row" },
    element("span", {}, `${factor.name}, last used: ${time(factor.last_used_at)}`),
    button("Remove", async () => {
      await ask("DELETE", `/api/auth/factors/${factor.factor_id}`);
      await show();
    }),
  );
  const renew = async () => show((await ask("POST", "/api/auth/recovery-codes")).recovery_codes);
  return card(
    "Second factor",
    element("ul", { class: "entries" }, ...confirmed.map(entry)),
    confirmed.length > 0
      ? element(
        "p",
        { class: "row quiet" },
        `${recovery_codes_left} recovery codes are left.`,
        button("Make new ones", renew),
      )
      : element("p", { class: "quiet" }, "Beside the password, a code of your phone is asked for at every sign-in."),
    setUp(me),
  );
}

function githubCard(me, methods) {
  const link = async () => location.assign((await ask("POST", "/api/auth/github?next=/account")).authorize_url);
  const unlink = async () => {
    await ask("DELETE", "/api/auth/github");
    await show();
  };
  if (!methods.github && !me.sign_in.github) {
    return undefined;
  }
  return me.sign_in.github
    ? card("GitHub", element("p", {}, `You sign in as ${me.sign_in.github}, too.`), button("Unlink", unlink))
    : card("GitHub", button("Link my GitHub account", link));
}

function sessionsCard({ sessions }) {
  const entry = (session) => element(
    "li",
    {},
    element("div", {}, session.user_agent ?? "A browser that does not say which"),
    element("div", { class: "quiet" }, `${session.address}, last used ${time(session.last_used_at)}`),
    session.is_current
      ? element("strong", {}, "This one")
      : button("Sign it out", async () => {
        await ask("DELETE", `/api/users/me/sessions/${session.session_id}`);
        await show();
      }),
  );
  const others = async () => {
    await ask("DELETE", "/api/users/me/sessions?others=true");
    await show();
  };
  return card(
    "Where you are signed in",
    element("ul", { class: "entries" }, ...sessions.map(entry)),
    sessions.length > 1 ? button("Sign all others out", others) : undefined,
  );
}

function logCard(first) {
  const list = element("ul", { class: "entries" });
  const more = button("More", () => add());
  let cursor = null;
  const put = (page, size) => {
    const entry = (item) => element(
      "li",
      {},
      element("div", {}, [item.action.replaceAll("_", " "), item.method].filter(Boolean).join(": ")),
      element("div", { class: "quiet" }, [time(item.at), item.actor.kind, item.ip_address].filter(Boolean).join(", ")),
    );
    list.append(...page.items.map(entry));
    cursor = page.items.length < size ? null : page.next_cursor ?? null;
    more.hidden = cursor === null;
  };
  const add = async () => {
    const query = `limit=${LOG_PAGE}&cursor=${encodeURIComponent(cursor)}`;
    put(await ask("GET", `/api/users/me/security-log?${query}`), LOG_PAGE);
  };
  put(first, LOG_PAGE);
  return card("What happened to your account", list, more);
}

async function show(codes) {
  const [session, me, stats, factors, sessions, log, methods] = await Promise.all([
    ask("GET", "/api/auth/session"),
    ask("GET", "/api/users/me"),
    ask("GET", "/api/usage/stats").catch(() => ({})),
    ask("GET", "/api/auth/factors"),
    ask("GET", "/api/users/me/sessions"),
    ask("GET", `/api/users/me/security-log?limit=${LOG_PAGE}`).catch(() => ({ items: [] })),
    ask("GET", "/api/auth/methods").catch(() => ({})),
  ]);
  const out = async () => {
    await ask("POST", "/api/auth/logout");
    location.replace("/sign-in");
  };
  const words = "You are an administrator without a second factor: until you set one up below, you can look, and " +
    "change nothing of others.";
  const isBare = session.role === "admin" && !session.has_second_factor;
  const notice = isBare ? element("section", { class: "notice", role: "status" }, words) : undefined;
  const who = [
    ["name", me.name],
    ["signs in as", me.sign_in.email ?? me.sign_in.github],
    ["role", me.role],
    ["user", me.user_id],
  ];
  const parts = [
    element("h1", { tabindex: "-1" }, "Your account"),
    codes ? codesCard(codes) : undefined,
    notice,
    card("You", pairs(who), element("p", {}, button("Sign out", out))),
    usage(stats),
    factorsCard(me, factors),
    me.sign_in.email ? passwordCard(me) : undefined,
    githubCard(me, methods),
    sessionsCard(sessions),
    logCard(log),
  ];
  main.replaceChildren(...parts.filter(Boolean));
  main.querySelector("h1").focus();
}

show().catch((error) => {
  if (error.status === 401 || error.code === "second_factor_required") {
    location.replace("/sign-in?next=/account");
  } else {
    const wrong = element("p", { class: "wrong", role: "alert" }, error.message);
    main.replaceChildren(element("h1", {}, "Your account"), wrong);
  }
});
