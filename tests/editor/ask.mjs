// What VS Code's JSON support says about files of a folder, given the folder's own .vscode/settings.json.
// stdin: {"folder": path, "questions": [{"file": name, "text": text}]}, where "|" in a text is the cursor (there may be
// none). stdout: for each question {"problems": [[line, message]], "completions": [[label, text]], "hover": text}.
// Nothing is downloaded: a schema that is not a file is an error.

import { readFile } from "node:fs/promises";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import jsonc from "jsonc-parser";
import jsonService from "vscode-json-languageservice";

const { getLanguageService, TextDocument } = jsonService;

const { folder, questions } = JSON.parse(readFileSync(0, "utf8"));
const root = pathToFileURL(folder + "/").href;

const service = getLanguageService({
  schemaRequestService: (url) => readFile(fileURLToPath(url), "utf8"),
  workspaceContext: { resolveRelativePath: (path, resource) => new URL(path, resource).href },
});

// As VS Code's client does: addresses that begin with "." are meant from the opened folder.
const settingsPath = join(folder, ".vscode", "settings.json");
const errors = [];
const settings = existsSync(settingsPath)
  ? jsonc.parse(readFileSync(settingsPath, "utf8"), errors, { allowTrailingComma: true })
  : {};
if (errors.length) throw new Error("settings.json: " + JSON.stringify(errors));
const schemas = (settings["json.schemas"] ?? []).map(({ fileMatch, url }) => ({
  fileMatch,
  uri: url.startsWith(".") ? new URL(url, root).href : url,
}));
service.configure({ validate: true, schemas });

const answers = [];
for (const { file, text } of questions) {
  const cursor = text.indexOf("|");
  const source = cursor < 0 ? text : text.slice(0, cursor) + text.slice(cursor + 1);
  const document = TextDocument.create(new URL(encodeURI(file), root).href, "json", 1, source);
  const json = service.parseJSONDocument(document);
  const problems = await service.doValidation(document, json);
  const answer = { problems: problems.map(({ range, message }) => [range.start.line + 1, message]) };
  if (cursor >= 0) {
    const position = document.positionAt(cursor);
    const list = await service.doComplete(document, position, json);
    const hover = await service.doHover(document, position, json);
    answer.completions = list.items.map((item) => [item.label, item.textEdit?.newText ?? item.insertText ?? ""]);
    answer.hover = hover ? [].concat(hover.contents).map((part) => part.value ?? part).join("\n") : "";
  }
  answers.push(answer);
}
console.log(JSON.stringify(answers));
