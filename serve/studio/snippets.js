/** An edit as code: curl, and Python with OpenAI's client. The key is always $FIREEDIT_API_KEY. */

import { fieldsOf, ROOT } from "./api.js";

/** Quote a text for a POSIX shell. */
export const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** @param {import("./api.js").EditRequest} request */
export function curl(request, file, root = ROOT.href) {
  const lines = [
    `curl -sS ${quoted(`${root}images/edits`)}`,
    `-H "Authorization: Bearer $FIREEDIT_API_KEY"`,
    `-F image=@${quoted(file)}`,
    ...(request.masked ? ["-F mask=@mask.png"] : []),
    ...fieldsOf(request).map(([name, value]) => `--form-string ${quoted(`${name}=${value}`)}`),
  ];
  return `${lines.join(" \\\n  ")} \\\n  | jq -r '.data[0].b64_json' | base64 -d > edited.png\n`;
}

/** @param {import("./api.js").EditRequest} request */
export function python(request, file, root = ROOT.href) {
  const { instruction, n, boxes, masked, seed, settings } = request;
  const extra = { seed, ...settings, ...(boxes && { regions: JSON.stringify(boxes) }) };
  const items = Object.entries(extra).map(([name, value]) => `"${name}": ${JSON.stringify(value)}`);
  return `import base64
import os

from openai import OpenAI

client = OpenAI(base_url=${JSON.stringify(root.replace(/\/$/, ""))}, api_key=os.environ.get("FIREEDIT_API_KEY", "none"))
edited = client.images.edit(
    image=open(${JSON.stringify(file)}, "rb"),${masked ? '\n    mask=open("mask.png", "rb"),' : ""}
    prompt=${JSON.stringify(instruction)},${n > 1 ? `\n    n=${n},` : ""}
    extra_body={${items.join(", ")}},
)
for number, picture in enumerate(edited.data):
    with open(f"edited-{number}.png", "wb") as file:
        file.write(base64.b64decode(picture.b64_json))
`;
}
