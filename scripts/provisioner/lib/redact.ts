/** Takes out of a text what must not be told. */
export function redact(text: string, secrets: (string | undefined)[]): string {
  let shown = text;
  for (const secret of secrets) {
    if (secret) shown = shown.replaceAll(secret, "[hidden]");
  }
  return shown
    .replace(/[A-Za-z0-9_-]*\d[A-Za-z0-9_-]{19,}|[A-Za-z0-9_-]{20,}\d[A-Za-z0-9_-]*/g, "[hidden]")
    .replace(/[\p{C}\s]+/gu, " ")
    .slice(0, 200);
}
