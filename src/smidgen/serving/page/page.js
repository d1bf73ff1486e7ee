"use strict";
// The chat page. A model's text only ever becomes text nodes: nothing here writes HTML.
(() => {
  const $ = (id) => document.getElementById(id);
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "class") element.className = value;
      else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  };
  const icon = (name) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
    use.setAttribute("href", "#i-" + name);
    svg.append(use);
    svg.setAttribute("aria-hidden", "true");
    return svg;
  };
  const iconButton = (name, label, action) =>
    make("button", { type: "button", class: "icon", "aria-label": label, title: label, onclick: action }, icon(name));

  // ---- what the browser keeps ------------------------------------------------------------------------------------
  const store = {
    read(name, otherwise) {
      try { return JSON.parse(localStorage.getItem("smidgen." + name)) ?? otherwise; } catch { return otherwise; }
    },
    write(name, value) {
      try { localStorage.setItem("smidgen." + name, JSON.stringify(value)); return true; } catch { return false; }
    },
  };
  const LIMIT = 200;
  const DEFAULTS = { temperature: 0.7, top_p: 0.95, top_k: 0, min_p: 0, repetition_penalty: 1, presence_penalty: 0,
    frequency_penalty: 0, seed: "", max_tokens: "", stop: "" };
  const CONTROLS = [
    ["temperature", "Temperature", 0, 2, 0.05, "0 always takes the likeliest token"],
    ["top_p", "Top p", 0.05, 1, 0.01, "draw from the likeliest tokens that sum to p"],
    ["top_k", "Top k", 0, 200, 1, "draw from the k likeliest tokens; 0 from all"],
    ["min_p", "Min p", 0, 1, 0.01, "draw from tokens at least p times as likely as the likeliest"],
    ["repetition_penalty", "Repetition penalty", 1, 2, 0.01, "make tokens that occurred less likely; 1 is off"],
    ["presence_penalty", "Presence penalty", -2, 2, 0.1, "subtract from tokens that the answer has"],
    ["frequency_penalty", "Frequency penalty", -2, 2, 0.1, "subtract for each time that the answer has them"],
  ];
  const isConversation = (c) => c && typeof c.id === "string" && Array.isArray(c.messages) &&
    c.messages.every((m) => m && typeof m.content === "string" && (m.role === "user" || m.role === "assistant"));
  let conversations = store.read("conversations", []);
  conversations = Array.isArray(conversations) ? conversations.filter(isConversation) : [];
  let settings = { ...DEFAULTS, ...store.read("settings", {}) };
  let current = null;
  let running = null;
  let model = null;
  let key = sessionStorage.getItem("smidgen.key") ?? localStorage.getItem("smidgen.key");

  const save = () => {
    conversations = conversations.filter((c) => c.messages.length || c === current).slice(0, LIMIT);
    const kept = () => conversations.filter((c) => c.messages.length);
    while (!store.write("conversations", kept()) && conversations.length > 1) conversations.pop(); // storage is full
  };
  const fresh = () => ({ id: Date.now().toString(36) + Math.random().toString(36).slice(2, 8), title: "", system: current?.system ?? "", messages: [] });

  // ---- Markdown to elements --------------------------------------------------------------------------------------
  const INLINE = /(`+)([^`]|[^`][^]*?[^`])\1(?!`)|\*\*([^*\n]+)\*\*|__([^_\n]+)__|\*([^*\s][^*\n]*)\*|~~([^~\n]+)~~|\[([^\]\n]{1,500})\]\(([^()\s]{1,2000})\)|(https?:\/\/[^\s<>"'`)\]]{1,2000})/;
  const link = (text, address) => {
    let url;
    try { url = new URL(address); } catch { return text; }
    if (!["http:", "https:", "mailto:"].includes(url.protocol)) return text;
    return make("a", { href: url.href, rel: "noopener noreferrer nofollow", target: "_blank" }, text);
  };
  const inline = (parent, text, depth = 0) => {
    while (text) {
      const match = depth < 6 ? INLINE.exec(text) : null;
      if (!match) { parent.append(text); return; }
      if (match.index) parent.append(text.slice(0, match.index));
      const [whole, , code, bold, bold2, italic, struck, label, address, bare] = match;
      if (code !== undefined) parent.append(make("code", {}, code.trim() ? code.replace(/^ (.*) $/, "$1") : code));
      else if (bare !== undefined) {
        const url = bare.replace(/[.,;:!?]+$/, "");
        parent.append(link(url, url), bare.slice(url.length));
      } else if (label !== undefined) parent.append(link(label, address));
      else {
        const element = make(bold ?? bold2 ? "strong" : italic ? "em" : "del");
        inline(element, bold ?? bold2 ?? italic ?? struck, depth + 1);
        parent.append(element);
      }
      text = text.slice(match.index + whole.length);
    }
  };
  const copyButton = (text) => {
    const button = iconButton("copy", "Copy", async () => {
      try { await navigator.clipboard.writeText(text()); } catch { return say("The browser does not let this page copy."); }
      button.replaceChildren(icon("check"));
      setTimeout(() => button.replaceChildren(icon("copy")), 1200);
    });
    return button;
  };
  const codeBlock = (language, text) => make("div", { class: "code" },
    make("div", {}, make("span", {}, language || "text"), copyButton(() => text)), make("pre", {}, make("code", {}, text)));
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
  const blocks = (parent, lines, depth = 0) => {
    let at = 0;
    let paragraph = [];
    const flush = () => {
      if (!paragraph.length) return;
      const p = make("p");
      paragraph.forEach((line, i) => { if (i) p.append(make("br")); inline(p, line.trim()); });
      parent.append(p);
      paragraph = [];
    };
    while (at < lines.length) {
      const line = lines[at];
      const fence = /^\s{0,3}(```+|~~~+)\s*([\w+#.-]*)/.exec(line);
      const heading = /^(#{1,6})\s+(.*?)\s*#*\s*$/.exec(line);
      const item = ITEM.exec(line);
      if (fence) {
        flush();
        const body = [];
        for (at += 1; at < lines.length && !lines[at].trim().startsWith(fence[1]); at += 1) body.push(lines[at]);
        at += 1;
        parent.append(codeBlock(fence[2], body.join("\n")));
      } else if (heading) {
        flush();
        const element = make("h" + Math.min(heading[1].length, 4));
        inline(element, heading[2]);
        parent.append(element);
        at += 1;
      } else if (/^\s*([-*_])(\s*\1){2,}\s*$/.test(line)) {
        flush(); parent.append(make("hr")); at += 1;
      } else if (/^\s{0,3}>/.test(line) && depth < 6) {
        flush();
        const quoted = [];
        for (; at < lines.length && /^\s{0,3}>/.test(lines[at]); at += 1) quoted.push(lines[at].replace(/^\s{0,3}>\s?/, ""));
        const quote = make("blockquote");
        blocks(quote, quoted, depth + 1);
        parent.append(quote);
      } else if (item && depth < 6) {
        flush();
        const ordered = /\d/.test(item[2]);
        const list = make(ordered ? "ol" : "ul", ordered ? { start: parseInt(item[2], 10) } : {});
        while (at < lines.length) {
          const next = ITEM.exec(lines[at]);
          if (!next || next[1].length !== item[1].length || /\d/.test(next[2]) !== ordered) break;
          const inner = [next[3]];
          for (at += 1; at < lines.length && lines[at].trim() && /^\s*/.exec(lines[at])[0].length > item[1].length; at += 1) {
            inner.push(lines[at].slice(Math.min(item[1].length + 2, /^\s*/.exec(lines[at])[0].length)));
          }
          const li = make("li");
          inline(li, inner[0]);
          if (inner.length > 1) blocks(li, inner.slice(1), depth + 1);
          list.append(li);
          if (at + 1 < lines.length && !lines[at].trim() && ITEM.test(lines[at + 1])) at += 1;
        }
        parent.append(list);
      } else if (line.includes("|") && at + 1 < lines.length && lines[at + 1].includes("-") && /^[\s|:-]+$/.test(lines[at + 1]) && lines[at + 1].includes("|")) {
        flush();
        const row = (tag, line) => make("tr", {}, ...cells(line).map((text) => { const cell = make(tag); inline(cell, text); return cell; }));
        const table = make("table", {}, row("th", line));
        for (at += 2; at < lines.length && lines[at].includes("|"); at += 1) table.append(row("td", lines[at]));
        parent.append(table);
      } else {
        if (line.trim()) paragraph.push(line); else flush();
        at += 1;
      }
    }
    flush();
  };
  const markdown = (parent, text) => { parent.replaceChildren(); blocks(parent, text.split("\n")); };

  // ---- drawing ---------------------------------------------------------------------------------------------------
  const say = (text) => { $("status").textContent = text; };
  const number = (value) => value.toLocaleString("en-US");
  const atBottom = () => $("scroll").scrollHeight - $("scroll").scrollTop - $("scroll").clientHeight < 80;
  const toBottom = () => { $("scroll").scrollTop = $("scroll").scrollHeight; };

  const drawList = () => {
    $("conversations").replaceChildren(...conversations.filter((c) => c.messages.length).map((c) => {
      const li = make("li", {},
        make("button", { class: "open", title: c.title, onclick: () => show(c) }, c.title),
        make("button", { class: "icon delete", "aria-label": "Delete " + c.title, onclick: () => remove(c) }, icon("trash")));
      if (c === current) li.setAttribute("aria-current", "true");
      return li;
    }));
  };
  const speed = (rate) => (rate < 100 ? rate.toFixed(1) : number(Math.round(rate))) + " tokens/s";
  const stats = (s) => {
    if (!s) return "";
    const parts = [number(s.tokens) + (s.tokens === 1 ? " token" : " tokens")];
    if (s.rate) parts.push(speed(s.rate));
    if (s.first) parts.push("first after " + (s.first < 1 ? Math.round(s.first * 1000) + " ms" : s.first.toFixed(1) + " s"));
    if (s.finish === "length") parts.push("cut at the limit");
    if (s.finish === "stopped") parts.push("stopped");
    return parts.join(" · ");
  };
  const drawMessage = (message, index) => {
    const body = make("div", { class: "body" });
    const tools = make("div", { class: "tools" });
    const article = make("article", { class: "message " + message.role, "aria-label": message.role === "user" ? "You" : "Model" }, body, tools);
    if (message.role === "user") {
      body.textContent = message.content;
      tools.append(iconButton("pencil", "Edit", () => edit(index)), copyButton(() => message.content));
    } else {
      markdown(body, message.content);
      if (message.problem) body.append(make("div", { class: "problem", role: "alert" }, message.problem));
      tools.append(copyButton(() => message.content));
      if (index === current.messages.length - 1) tools.append(iconButton("retry", "Answer again", regenerate));
      tools.append(make("span", { class: "stats" }, stats(message.stats)));
    }
    return article;
  };
  const draw = () => {
    $("empty").hidden = current.messages.length > 0;
    $("messages").replaceChildren(...current.messages.map(drawMessage));
    $("system").value = current.system;
    drawContext();
    drawList();
    toBottom();
  };
  const drawContext = () => {
    const used = current.messages.findLast((m) => m.used)?.used;
    $("context").hidden = !(used && model);
    if ($("context").hidden) return;
    const share = Math.min(100, 100 * used / model.context_length);
    $("context").style.setProperty("--used", share + "%");
    $("context").classList.toggle("tight", share > 85);
    $("context").setAttribute("aria-valuenow", used);
    $("context").setAttribute("aria-valuemax", model.context_length);
    $("context").lastElementChild.textContent = number(used) + " / " + number(model.context_length);
    $("context").title = number(used) + " of the context's " + number(model.context_length) + " tokens are used";
  };
  const drawSettings = () => {
    $("controls").replaceChildren(...CONTROLS.map(([name, label, min, max, step, help]) => {
      const output = make("output", {}, String(settings[name]));
      const input = make("input", { type: "range", id: name, min, max, step, value: settings[name], "aria-label": label,
        oninput: () => { settings[name] = Number(input.value); output.textContent = input.value; store.write("settings", settings); } });
      return make("label", { class: "slider", title: help }, label, output, input);
    }));
    $("seed").value = settings.seed;
    $("max_tokens").value = settings.max_tokens;
    $("stop-text").value = settings.stop;
  };
  const busy = (on) => {
    $("send").hidden = on;
    $("stop").hidden = !on;
    $("send").disabled = !$("input").value.trim();
  };

  // ---- conversations ---------------------------------------------------------------------------------------------
  const show = (conversation) => {
    running?.abort();
    current = conversation;
    draw();
    sidebar(false);
    say("");
    $("input").focus();
  };
  const start = () => {
    const next = fresh();
    conversations.unshift(next);
    show(next);
    save();
  };
  const remove = (conversation) => {
    if (conversation === current) running?.abort();
    conversations = conversations.filter((c) => c !== conversation);
    if (conversation === current) start(); else drawList();
    save();
  };
  const send = (text) => {
    if (running || !text.trim() || !model) return;
    if (!current.messages.length) {
      current.title = text.trim().split("\n")[0].slice(0, 80);
    }
    conversations = [current, ...conversations.filter((c) => c !== current)];
    current.messages.push({ role: "user", content: text });
    draw();
    answer();
  };
  const regenerate = () => {
    if (running || !current.messages.length) return;
    if (current.messages.at(-1).role === "assistant") current.messages.pop();
    if (!current.messages.length) return;
    draw();
    answer();
  };
  const edit = (index) => {
    if (running) return;
    const article = $("messages").children[index];
    const area = make("textarea", { "aria-label": "Edit the message", rows: 3 });
    area.value = current.messages[index].content;
    const finish = () => {
      if (!area.value.trim()) return;
      current.messages.length = index;
      send(area.value);
    };
    area.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); finish(); }
      if (event.key === "Escape") { event.stopPropagation(); draw(); $("input").focus(); }
    });
    article.replaceChildren(make("div", { class: "editor" }, area, make("div", {},
      make("button", { type: "button", class: "quiet", onclick: draw }, "Cancel"),
      make("button", { type: "button", class: "primary", onclick: finish }, "Send"))));
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  };

  // ---- the server ------------------------------------------------------------------------------------------------
  const call = (path, options = {}) => fetch(path, { ...options, credentials: "omit", cache: "no-store",
    headers: { ...(options.body ? { "content-type": "application/json" } : {}), ...(key ? { authorization: "Bearer " + key } : {}) } });
  const problem = async (response) => {
    try { return (await response.json()).error.message; } catch { return "The server answered with status " + response.status + "."; }
  };
  const parameters = () => {
    const body = { model: model.id, stream: true, stream_options: { include_usage: true } };
    for (const [name] of CONTROLS) if (settings[name] !== DEFAULTS_OF_THE_SERVER[name]) body[name] = settings[name];
    if (settings.seed !== "") body.seed = Number(settings.seed);
    if (settings.max_tokens !== "") body.max_tokens = Number(settings.max_tokens);
    if (settings.stop) body.stop = settings.stop;
    return body;
  };
  const DEFAULTS_OF_THE_SERVER = { temperature: 1, top_p: 1, top_k: 0, min_p: 0, repetition_penalty: 1, presence_penalty: 0, frequency_penalty: 0 };
  const request = () => {
    const messages = current.messages.filter((m) => !(m.role === "assistant" && !m.content)).map(({ role, content }) => ({ role, content }));
    if (model.chat) {
      const system = current.system.trim() ? [{ role: "system", content: current.system }] : [];
      return ["/v1/chat/completions", { ...parameters(), messages: [...system, ...messages] }];
    }
    const body = { ...parameters(), prompt: current.system + messages.map((m) => m.content).join("") };
    body.max_tokens ??= 200;
    return ["/v1/completions", body];
  };
  async function* events(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let buffer = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      buffer += value;
      let end;
      while ((end = buffer.indexOf("\n\n")) >= 0) {
        const line = buffer.slice(0, end);
        buffer = buffer.slice(end + 2);
        if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
      }
    }
  }
  const answer = async () => {
    const conversation = current;
    const controller = running = new AbortController();
    const message = { role: "assistant", content: "" };
    const [path, body] = request();
    conversation.messages.push(message);
    const article = drawMessage(message, conversation.messages.length - 1);
    article.classList.add("writing");
    $("messages").append(article);
    busy(true);
    toBottom();
    save();
    drawList();
    const begun = performance.now();
    let first = 0, last = 0, tokens = 0, finish = null, frame = 0;
    // Where the tokens came too close together to be timed, all of it counts from the question on.
    const rate = () => tokens < 2 ? 0 : last - first > 30 ? (tokens - 1) / (last - first) * 1000 : tokens / (last - begun) * 1000;
    const paint = () => {
      frame = 0;
      if (current !== conversation) return;
      const follow = atBottom();
      markdown(article.firstElementChild, message.content);
      say(tokens + " tokens" + (rate() ? " · " + speed(rate()) : ""));
      if (follow) toBottom();
    };
    try {
      const response = await call(path, { method: "POST", body: JSON.stringify(body), signal: controller.signal });
      if (response.status === 401) { conversation.messages.pop(); askForKey("The key is not right any more."); return; }
      if (!response.ok) throw new Error(await problem(response));
      for await (const event of events(response)) {
        if (event.error) throw new Error(event.error.message);
        if (event.usage) { tokens = event.usage.completion_tokens; message.used = event.usage.total_tokens; }
        const [choice] = event.choices;
        if (!choice) continue;
        const text = choice.delta ? choice.delta.content : choice.text;
        if (text) {
          last = performance.now();
          if (!first) first = last;
          tokens += 1;
          message.content += text;
          if (!frame) frame = requestAnimationFrame(paint);
        }
        finish = choice.finish_reason ?? finish;
      }
      if (finish === null) throw new Error("The connection ended before the answer did.");
    } catch (error) {
      if (controller.signal.aborted) finish = "stopped";
      else message.problem = error instanceof TypeError ? "The server cannot be reached." : error.message;
    } finally {
      cancelAnimationFrame(frame);
      if (running === controller) running = null;
      if (tokens) {
        message.stats = { tokens, finish, first: (first - begun) / 1000, rate: rate() };
      }
      if (!message.content && finish === "stopped") conversation.messages.pop();
      save();
      if (current === conversation) {
        const follow = atBottom();
        const { scrollTop } = $("scroll");
        draw();
        if (!follow) $("scroll").scrollTop = scrollTop;
      }
      if (!running) { busy(false); say(""); }
    }
  };

  // ---- the key ---------------------------------------------------------------------------------------------------
  const askForKey = (text = "") => {
    busy(false);
    $("key-error").textContent = text;
    $("key").value = "";
    if (!$("key-dialog").open) $("key-dialog").showModal();
    $("key").focus();
  };
  $("key-dialog").addEventListener("cancel", (event) => event.preventDefault());
  $("key-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    key = $("key").value.trim();
    if (!/^[\x21-\x7e]+$/.test(key)) return askForKey("A key has no spaces and no accents.");
    if (await connect()) {
      const place = $("remember").checked ? localStorage : sessionStorage;
      try { place.setItem("smidgen.key", key); } catch { /* asked for again next time */ }
      $("key-dialog").close();
      $("forget-key").hidden = false;
      $("input").focus();
    }
  });
  const connect = async () => {
    let response;
    try { response = await call("/v1/models"); } catch { say("The server cannot be reached; trying again …"); setTimeout(connect, 3000); return false; }
    if (response.status === 401) { askForKey(key ? "That is not the key of this server." : ""); return false; }
    if (!response.ok) { say(await problem(response)); return false; }
    model = (await response.json()).data[0];
    $("model").textContent = model.id;
    document.title = model.id + " · Smidgen";
    const size = model.num_parameters >= 1e6 ? (model.num_parameters / 1e6).toFixed(model.num_parameters < 1e7 ? 1 : 0) + "M" : number(model.num_parameters);
    $("size").textContent = size + " parameters";
    $("length").textContent = " · " + number(model.context_length) + " tokens of context";
    $("hint").textContent = model.chat ? "" : "This model was not made for chats: it continues your text.";
    $("hint").hidden = model.chat;
    $("input").placeholder = model.chat ? "Message " + model.id : "Text to continue";
    $("forget-key").hidden = !key;
    say("");
    busy(Boolean(running));
    drawContext();
    return true;
  };

  // ---- controls --------------------------------------------------------------------------------------------------
  const sidebar = (on) => {
    $("sidebar").classList.toggle("shown", on);
    $("open-sidebar").setAttribute("aria-expanded", on);
    scrim();
  };
  const panel = (on) => {
    $("settings").hidden = !on;
    $("open-settings").setAttribute("aria-expanded", on);
    scrim();
    if (on) $("system").focus(); else $("input").focus();
  };
  const scrim = () => { $("scrim").hidden = !$("sidebar").classList.contains("shown"); };
  const THEMES = ["system", "light", "dark"];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const theme = (name) => {
    const chosen = THEMES.includes(name) ? name : "system";
    document.documentElement.dataset.theme = chosen === "system" ? (dark.matches ? "dark" : "light") : chosen;
    $("theme").setAttribute("aria-label", "Theme: " + (chosen === "system" ? "as the system" : chosen));
    $("theme").title = $("theme").getAttribute("aria-label");
    return chosen;
  };
  let themeName = theme(store.read("theme", "system"));
  dark.addEventListener("change", () => theme(themeName));
  $("theme").addEventListener("click", () => {
    themeName = theme(THEMES[(THEMES.indexOf(themeName) + 1) % THEMES.length]);
    store.write("theme", themeName);
  });
  const grow = () => {
    const input = $("input");
    input.style.height = "auto";
    input.style.height = Math.min(input.scrollHeight, innerHeight * 0.4) + "px";
    $("send").disabled = !input.value.trim();
  };
  const submit = () => {
    if (running || !$("input").value.trim() || !model) return;
    const text = $("input").value;
    $("input").value = "";
    grow();
    send(text);
  };
  $("composer").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
  $("input").addEventListener("input", grow);
  $("input").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); submit(); }
    if (event.key === "ArrowUp" && !$("input").value) {
      const index = current.messages.findLastIndex((m) => m.role === "user");
      if (index >= 0) { event.preventDefault(); edit(index); }
    }
  });
  $("stop").addEventListener("click", () => { running?.abort(); $("input").focus(); });
  $("new").addEventListener("click", start);
  $("open-sidebar").addEventListener("click", () => sidebar(true));
  $("close-sidebar").addEventListener("click", () => sidebar(false));
  $("scrim").addEventListener("click", () => sidebar(false));
  $("open-settings").addEventListener("click", () => panel($("settings").hidden));
  $("close-settings").addEventListener("click", () => panel(false));
  $("help").addEventListener("click", () => $("help-dialog").showModal());
  $("system").addEventListener("input", () => { current.system = $("system").value; save(); });
  for (const [id, name] of [["seed", "seed"], ["max_tokens", "max_tokens"], ["stop-text", "stop"]]) {
    $(id).addEventListener("input", () => { settings[name] = $(id).value; store.write("settings", settings); });
  }
  $("defaults").addEventListener("click", () => { settings = { ...DEFAULTS }; store.write("settings", settings); drawSettings(); });
  $("forget-key").addEventListener("click", () => {
    sessionStorage.removeItem("smidgen.key");
    localStorage.removeItem("smidgen.key");
    location.reload();
  });
  $("delete-all").addEventListener("click", () => {
    if (!confirm("Delete all conversations in this browser?")) return;
    running?.abort();
    conversations = [];
    start();
    save();
  });
  document.addEventListener("keydown", (event) => {
    const typing = /^(TEXTAREA|INPUT)$/.test(document.activeElement.tagName);
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "Escape") {
      if (running) running.abort();
      else if ($("sidebar").classList.contains("shown")) sidebar(false);
      else if (!$("settings").hidden) panel(false);
    } else if (event.altKey && event.code === "KeyN") { event.preventDefault(); start(); }
    else if (event.altKey && event.code === "KeyR") { event.preventDefault(); regenerate(); }
    else if (event.altKey && event.code === "KeyS") { event.preventDefault(); panel($("settings").hidden); }
    else if (!typing && event.key === "/") { event.preventDefault(); $("input").focus(); }
    else if (!typing && event.key === "?") { event.preventDefault(); $("help-dialog").showModal(); }
  });
  for (const text of ["Hello! Who are you?", "Write a list of a lamp, a kite and a boat.", "What can I ask you?"]) {
    $("examples").append(make("button", { type: "button", onclick: () => send(text) }, text));
  }
  addEventListener("storage", (event) => { // another tab
    if (event.key !== "smidgen.conversations" || running) return;
    const others = store.read("conversations", []);
    conversations = (Array.isArray(others) ? others.filter(isConversation) : []);
    current = conversations.find((c) => c.id === current.id) ?? current;
    draw();
  });

  drawSettings();
  const newest = conversations[0];
  if (newest) { current = newest; draw(); } else start();
  busy(false);
  connect().then((ready) => { if (ready) $("input").focus(); });
})();
