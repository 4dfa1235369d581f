/** An edit as code: curl, and Python with OpenAI's client. The key is always $FIREEDIT_API_KEY. */

import { fieldsOf, ROOT } from "./api.js";

const KEY = "FIREEDIT_API_KEY";
const CLIENT_FIELDS = ["prompt", "n"];

/** Quote a text for a POSIX shell. */
export const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** @param {import("./api.js").EditRequest} request */
export function curl(request, file, root = ROOT.href) {
  const lines = [
    `curl -sS ${quoted(`${root}images/edits`)}`,
    `-H "Authorization: Bearer $${KEY}"`,
    `-F image=@${quoted(file)}`,
    ...(request.masked ? ["-F mask=@mask.png"] : []),
    ...fieldsOf(request).map(([name, value]) => `--form-string ${quoted(`${name}=${value}`)}`),
  ];
  return `${lines.join(" \\\n  ")} \\\n  | jq -r '.data[0].b64_json' | base64 -d > edited.png\n`;
}

/** @param {import("./api.js").EditRequest} request */
export function python(request, file, root = ROOT.href) {
  const fields = fieldsOf(request).filter(([name]) => !CLIENT_FIELDS.includes(name));
  const literal = (name, value) => (name in request.settings || name === "seed" ? JSON.stringify(request.settings[name] ?? request.seed) : JSON.stringify(value));
  const extra = fields.map(([name, value]) => `${JSON.stringify(name)}: ${literal(name, value)}`);
  return `import base64
import os

from openai import OpenAI

client = OpenAI(base_url=${JSON.stringify(root.replace(/\/$/, ""))}, api_key=os.environ.get("${KEY}", "none"))
edited = client.images.edit(
    image=open(${JSON.stringify(file)}, "rb"),${request.masked ? '\n    mask=open("mask.png", "rb"),' : ""}
    prompt=${JSON.stringify(request.instruction)},${request.n > 1 ? `\n    n=${request.n},` : ""}
    extra_body={${extra.join(", ")}},
)
for number, picture in enumerate(edited.data):
    with open(f"edited-{number}.png", "wb") as file:
        file.write(base64.b64decode(picture.b64_json))
`;
}
