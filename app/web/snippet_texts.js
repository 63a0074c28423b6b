/**
 * A request as text of other languages, which send the same.
 *
 * Each takes `{base, request, key}` and makes `{text}`, or `{reason}` why there is none.
 */

import { format } from "./formats.js";

const LONGEST_URL = 60_000;

/** For bash and its like: in single quotes nothing has a meaning but the quote. */
const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

const fileOf = ({ format: name }) => `speech.${format(name).ending}`;

function curl({ base, request, key }) {
  const lines = [
    `curl -X POST ${quoted(`${base}/tts/generate`)}`,
    `  -H 'Content-Type: application/json'`,
    `  -H ${quoted(`X-API-Key: ${key}`)}`,
    `  --data-raw ${quoted(JSON.stringify(request))}`,
    `  --output ${fileOf(request)}`,
  ];
  return { text: lines.join(" \\\n") };
}

function python({ base, request, key }) {
  const lines = [
    "import requests",
    "",
    "answer = requests.post(",
    `    ${literal(`${base}/tts/generate`)},`,
    `    headers={"X-API-Key": ${literal(key)}},`,
    `    json=${literal(request, "    ")},`,
    ")",
    "answer.raise_for_status()",
    `with open("${fileOf(request)}", "wb") as file:`,
    "    file.write(answer.content)",
  ];
  return { text: lines.join("\n") };
}

function javascript({ base, request, key }) {
  const body = JSON.stringify(request, null, 2).replaceAll("\n", "\n  ");
  const lines = [
    'import { writeFile } from "node:fs/promises";',
    "",
    `const answer = await fetch(${JSON.stringify(`${base}/tts/generate`)}, {`,
    '  method: "POST",',
    `  headers: { "Content-Type": "application/json", "X-API-Key": ${JSON.stringify(key)} },`,
    `  body: JSON.stringify(${body}),`,
    "});",
    "if (!answer.ok) throw new Error((await answer.json()).error.message);",
    `await writeFile("${fileOf(request)}", Buffer.from(await answer.arrayBuffer()));`,
  ];
  return { text: lines.join("\n") };
}

/** With the package `openai` for Python. */
function openai({ base, request, key }) {
  const { text, format: name, voice_id: voice = "alloy", model = "tts-1", speed, ...others } = request;
  const given = { model, voice, input: text, response_format: name, ...(speed && { speed }) };
  const lines = [
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${literal(`${base}/v1`)}, api_key=${literal(key)})`,
    "with client.audio.speech.with_streaming_response.create(",
    ...Object.entries(given).map(([option, value]) => `    ${option}=${literal(value)},`),
    ...(Object.keys(others).length ? [`    extra_body=${literal(others, "    ")},`] : []),
    ") as answer:",
    `    answer.stream_to_file("${fileOf(request)}")`,
  ];
  return { text: lines.join("\n") };
}

function audioTag({ base, request, key }) {
  if (request.format === "raw_pcm") return { reason: "Raw PCM has no header, so no audio tag plays it." };
  const query = new URLSearchParams({ ...request, api_key: key }).toString().replaceAll("+", "%20");
  const source = `${base}/tts/generate?${query}`;
  if (source.length > LONGEST_URL) {
    return { reason: "The text is too long for a URL: send it as the command does." };
  }
  return { text: `<audio controls src="${source.replaceAll("&", "&amp;")}"></audio>` };
}

/** In Python: JSON's, but for its names of truth values. */
function literal(value, indent = "") {
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const pairs = Object.entries(value).map(([name, one]) => `${indent}    "${name}": ${literal(one)},\n`);
  return `{\n${pairs.join("")}${indent}}`;
}

/** By the names of their tabs. */
export const LANGUAGES = { curl, Python: python, JavaScript: javascript, OpenAI: openai, HTML: audioTag };
