// A form from a JSON schema: what it knows becomes fields, the rest is JSON.
"use strict";
{
  const holder = $("#form");
  const form = $("#start");
  let count = 0;

  const resolve = (schema, root) => {
    for (let hops = 0; schema?.$ref && hops < 20; hops++) {
      schema = schema.$ref.split("/").slice(1).reduce((at, name) => at?.[name.replace(/~1/g, "/").replace(/~0/g, "~")], root);
    }
    return schema ?? true;
  };

  /** The one schema that is not null, and whether null is allowed. */
  const unwrap = (schema, root) => {
    schema = resolve(schema, root);
    const options = schema.anyOf ?? schema.oneOf;
    if (options?.length === 2 && options.some((one) => resolve(one, root).type === "null")) {
      const inner = resolve(options.find((one) => resolve(one, root).type !== "null"), root);
      return [{ ...inner, description: schema.description ?? inner.description }, true];
    }
    if (Array.isArray(schema.type)) {
      const types = schema.type.filter((type) => type !== "null");
      if (types.length === 1) return [{ ...schema, type: types[0] }, schema.type.includes("null")];
    }
    return [schema, false];
  };

  /** An editor: its element, and a function that reads it; undefined is left out. */
  function edit(given, root, label, required) {
    const [schema, nullable] = unwrap(given, root);
    const id = `field-${count++}`;
    const optional = !required || nullable;
    const nothing = required && nullable ? null : undefined;
    const field = (input, value) => {
      const name = element("label", { for: id }, label + (optional ? " " : ""), ...(optional ? [element("span", { class: "dim" }, " (optional)")] : []));
      const parts = [name, input];
      if (schema.description) {
        input.setAttribute("aria-describedby", `${id}-says`);
        parts.push(element("span", { class: "dim", id: `${id}-says` }, schema.description));
      }
      return { element: element("div", { class: "field" }, ...parts), value };
    };
    const options = schema.enum ?? (schema.oneOf?.every((one) => "const" in one) ? schema.oneOf.map((one) => one.const) : undefined);
    if (options) {
      const input = element("select", { id }, ...(optional ? [element("option", { value: "" }, "–")] : []),
        ...options.map((option, index) => element("option", { value: index }, String(option))));
      return field(input, () => (input.value === "" ? nothing : options[Number(input.value)]));
    }
    if (schema.type === "object" && schema.properties) {
      const parts = Object.entries(schema.properties).map(([name, inner]) => [name, edit(inner, root, name, schema.required?.includes(name))]);
      const value = () => Object.fromEntries(parts.map(([name, part]) => [name, part.value()]).filter(([, said]) => said !== undefined));
      if (!label) return { element: element("div", {}, ...parts.map(([, part]) => part.element)), value };
      if (optional) {
        const used = element("input", { type: "checkbox", id });
        const inside = element("div", {}, ...parts.map(([, part]) => part.element));
        inside.hidden = true;
        used.addEventListener("change", () => { inside.hidden = !used.checked; inside.parentElement.classList.toggle("unused", !used.checked); $$("input, select, textarea", inside).forEach((one) => { one.disabled = !used.checked; }); });
        $$("input, select, textarea", inside).forEach((one) => { one.disabled = true; });
        return { element: element("fieldset", { class: "unused" }, element("legend", {}, element("label", { class: "check" }, used, label)), inside), value: () => (used.checked ? value() : nothing) };
      }
      return { element: element("fieldset", {}, element("legend", {}, label), ...parts.map(([, part]) => part.element)), value };
    }
    if (schema.type === "array" && schema.items && !Array.isArray(schema.items)) {
      const items = [];
      const rows = element("div");
      const add = element("button", { type: "button", class: "small" }, "Add");
      add.addEventListener("click", () => {
        const item = edit(schema.items, root, `${label || "item"} ${items.length + 1}`, true);
        const remove = element("button", { type: "button", class: "small quiet", "aria-label": "Remove" }, "×");
        const row = element("div", { class: "item" }, item.element, remove);
        remove.addEventListener("click", () => { items.splice(items.indexOf(item), 1); row.remove(); });
        items.push(item);
        rows.append(row);
      });
      const whole = element("fieldset", {}, element("legend", {}, label || "Items"), rows, add);
      return { element: whole, value: () => (items.length || required ? items.map((item) => item.value()) : nothing) };
    }
    if (schema.type === "boolean") {
      const input = element("input", { type: "checkbox", id });
      input.checked = schema.default === true;
      return { element: element("div", { class: "field" }, element("label", { class: "check" }, input, ` ${label}`)), value: () => input.checked };
    }
    if (schema.type === "integer" || schema.type === "number") {
      const input = element("input", { id, type: "number", step: schema.type === "integer" ? "1" : "any" });
      if (schema.minimum !== undefined) input.min = schema.minimum;
      if (schema.maximum !== undefined) input.max = schema.maximum;
      input.required = !optional;
      if (schema.default !== undefined && schema.default !== null) input.value = schema.default;
      return field(input, () => (input.value === "" ? nothing : Number(input.value)));
    }
    if (schema.type === "string") {
      const input = element("input", { id, type: schema.format === "date" ? "date" : "text", autocomplete: "off" });
      if (typeof schema.default === "string") input.value = schema.default;
      return field(input, () => (input.value === "" && optional ? nothing : input.value));
    }
    if (schema.type === "null") return { element: element("p", { class: "dim" }, label ? `${label}: nothing` : "It takes no input."), value: () => null };
    const input = element("textarea", { id, rows: "4", spellcheck: "false" });
    input.value = required && !label ? "null" : "";
    return field(input, () => {
      if (input.value.trim() === "" && optional) return nothing;
      try { return JSON.parse(input.value); } catch { throw new Error(`${label || "Input"}: this is not JSON`); }
    });
  }

  if (holder) {
    const schema = JSON.parse(holder.dataset.schema);
    const [top] = unwrap(schema, schema);
    const whole = edit(schema, schema, top.type === "object" && top.properties ? "" : "Input", true);
    holder.append(whole.element);
    const raw = $("#raw");
    const toggle = $("#as-json");
    const isRaw = () => toggle.getAttribute("aria-pressed") === "true";
    toggle.addEventListener("click", () => {
      const next = !isRaw();
      if (next) {
        try { $("textarea", raw).value = JSON.stringify(whole.value(), null, 2); } catch { /* It is written there as it is. */ }
      }
      toggle.setAttribute("aria-pressed", next);
      toggle.textContent = next ? "As a form" : "As JSON";
      raw.hidden = !next;
      holder.hidden = next;
      // What is hidden must not keep the form from being sent.
      $$("input, select, textarea", holder).forEach((one) => { if (next) { one.dataset.was = one.disabled; one.disabled = true; } else one.disabled = one.dataset.was === "true"; });
    });
    const input = () => {
      if (!isRaw()) return whole.value();
      try { return JSON.parse($("textarea", raw).value); } catch (error) { throw new Error(`Input: this is not JSON: ${error.message}`); }
    };
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      complain(form);
      start(input).catch((error) => complain(form, error.message));
    });
  }

  async function start(input) {
    const body = { orchestration: form.dataset.orchestration, input: input(), reuse: form.elements.reuse.value };
    body.id = form.elements.id.value || `${form.dataset.orchestration}-${crypto.getRandomValues(new Uint32Array(2)).reduce((text, n) => text + n.toString(36), "")}`;
    if (form.dataset.module) body.module = form.dataset.module;
    if (form.elements.start_at.value) body.start_at = `${form.elements.start_at.value}:00Z`;
    body.tags = {};
    for (const pair of form.elements.tags.value.split(/\s+/).filter(Boolean)) {
      const at = pair.indexOf("=");
      if (at < 1) throw new Error(`Tags: ${pair} is no tag: expected name=value`);
      body.tags[pair.slice(0, at)] = pair.slice(at + 1);
    }
    await call("POST", "/api/v1/instances", body);
    location.assign(`/ui/instances/${encodeURIComponent(body.id)}`);
  }

  // ---- a new schedule ----

  const EVERY = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

  async function schedule(made) {
    const said = Object.fromEntries(new FormData(made));
    const body = { orchestration: said.orchestration };
    const every = said.when.trim().match(/^(?:every\s+)?(\d+)\s*([smhd])$/);
    if (every) body.every_ms = Number(every[1]) * EVERY[every[2]];
    else body.cron = said.when.trim();
    if (said.time_zone && !every) body.time_zone = said.time_zone;
    try { body.input = JSON.parse(said.input); } catch { throw new Error("Input: this is not JSON"); }
    await call("PUT", `/api/v1/schedules/${encodeURIComponent(said.name)}`, body);
    made.closest("dialog").close();
    toast(`${said.name}: made`);
    refreshSoon();
  }

  $("form[data-schedule]")?.addEventListener("submit", (event) => {
    event.preventDefault();
    complain(event.target);
    schedule(event.target).catch((error) => complain(event.target, error.message));
  });
}
