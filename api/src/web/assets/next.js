// The place on this site at which a page goes on after a sign-in: a path, never another site.
export function placeOf(asked, origin) {
  const usual = "/account";
  if (typeof asked !== "string" || !/^\/(?![/\\])[\x21-\x7e]*$/.test(asked) || asked.length > 512) {
    return usual;
  }
  try {
    const there = new URL(asked, origin);
    const path = there.pathname + there.search + there.hash;
    return there.origin === origin && !path.startsWith("//") ? path : usual;
  } catch {
    return usual;
  }
}
