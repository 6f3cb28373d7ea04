"use strict";
(() => {
  const DASHES = ["", "7 3", "2 3", "9 3 2 3"];
  const PREFETCH = 12;
  const SVG = "http://www.w3.org/2000/svg";
  const page = JSON.parse(document.getElementById("page").textContent);
  const byId = (id) => document.getElementById(id);

  // What is shown now: a sequence of the page, its data, and the place of the frame among those that can be shown.
  let chosen = -1;
  let sequence = null;
  let stops = [];
  let place = 0;
  let images = new Map();
  let timer = null;
  let sorting = page.compare ? { key: "SR", run: "difference", order: "size" } : { key: "SR", run: 0, order: "up" };
  const shown = { truth: true, runs: page.runs.map(() => true) };
  // Pictures are shown at this gamma; 1 is as they were taken.
  let gamma = 1;

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  function drawing(tag, attributes = {}, ...children) {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  const dashes = (run) => DASHES[Math.floor(run % DASHES.length)];
  const percent = (value) => (value === undefined ? "–" : (100 * value).toFixed(1));
  const signed = (value) => {
    const size = Math.abs(100 * value).toFixed(1);
    return (Number(size) === 0 ? "" : value > 0 ? "+" : "−") + size;
  };
  const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

  function swatch(run) {
    const line = drawing("line", { x1: 0, x2: 22, y1: 5, y2: 5 });
    if (run !== null && dashes(run)) line.setAttribute("stroke-dasharray", dashes(run));
    if (run === null) line.setAttribute("style", "stroke-width: 1.5");
    return drawing("svg", { class: "swatch", viewBox: "0 0 22 10", "aria-hidden": "true" }, line);
  }

  function ofRun(run, tag, attributes, ...children) {
    return element(
      tag,
      { ...attributes, class: `run ${attributes.class || ""}`, style: `--color: ${page.runs[run].color}` },
      ...children,
    );
  }

  // The list of sequences

  function difference(entry, key) {
    const [a, b] = entry.scores;
    return a && b ? b[key] - a[key] : undefined;
  }

  const COLUMNS = [{ title: "sequence", key: "name" }];
  // In a comparison two groups of three figures leave no room for it.
  if (!page.compare) COLUMNS.push({ title: "frames", key: "frames" });
  const PLAIN = COLUMNS.length;
  for (const [key, group] of [
    ["SR", "success"],
    ["PR", "precision"],
  ]) {
    page.runs.forEach((run, index) => COLUMNS.push({ title: run.label, key, group, run: index }));
    if (page.compare) COLUMNS.push({ title: "Δ", key, group, run: "difference" });
  }

  const LARGEST = Math.max(
    0.1,
    ...page.sequences.flatMap((entry) => ["SR", "PR"].map((key) => Math.abs(difference(entry, key) || 0))),
  );

  function value(entry, column) {
    if (column.run === undefined) return entry[column.key];
    if (column.run === "difference") return difference(entry, column.key);
    return entry.scores[column.run]?.[column.key];
  }

  function ordered() {
    const words = byId("filter").value.trim().toLowerCase();
    const rows = page.sequences
      .map((entry, index) => ({ entry, index }))
      .filter((row) => row.entry.name.toLowerCase().includes(words));
    const column = COLUMNS.find((c) => c.key === sorting.key && c.run === sorting.run);
    const read = (row) => (sorting.order === "size" ? Math.abs(value(row.entry, column)) : value(row.entry, column));
    const sign = sorting.order === "up" ? 1 : -1;
    return rows.sort((one, other) => {
      const [a, b] = [read(one), read(other)];
      const missing = (v) => v === undefined || Number.isNaN(v);
      if (missing(a) || missing(b)) return missing(a) - missing(b) || one.index - other.index;
      const order = typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b;
      return sign * order || one.index - other.index;
    });
  }

  function sortBy(column) {
    const same = sorting.key === column.key && sorting.run === column.run;
    const first = column.run === "difference" ? "size" : column.key === "name" ? "up" : "down";
    const following = { size: "down", down: "up", up: column.run === "difference" ? "size" : "down" };
    sorting = { key: column.key, run: column.run, order: same ? following[sorting.order] : first };
    listSequences();
  }

  const ORDERS = {
    up: { mark: " ↑", aria: "ascending" },
    down: { mark: " ↓", aria: "descending" },
    size: { mark: " ↓", aria: "other" },
  };

  function heading(column) {
    const sorted = sorting.key === column.key && sorting.run === column.run;
    const what =
      column.run === "difference"
        ? `difference in ${column.group}, second less first`
        : [column.group, column.title].filter(Boolean).join(" of ");
    const button = element("button", { type: "button", title: `Sort by ${what}`, "aria-label": `Sort by ${what}` });
    if (typeof column.run === "number") button.append(swatch(column.run));
    else button.append(sorted && sorting.order === "size" ? "|Δ|" : column.title);
    if (sorted) button.append(ORDERS[sorting.order].mark);
    button.addEventListener("click", () => sortBy(column));
    const cell =
      typeof column.run === "number"
        ? ofRun(column.run, "th", { scope: "col" }, button)
        : element("th", { scope: "col" }, button);
    if (sorted) cell.setAttribute("aria-sort", ORDERS[sorting.order].aria);
    if (column.run === 0) cell.dataset.start = "";
    cell.dataset.column = column.run === undefined ? column.key : `${column.key}-${column.run}`;
    return cell;
  }

  function differenceCell(change) {
    const width = Math.min(1, Math.abs(change) / LARGEST) * 50;
    const bar = element("i", { style: `width: ${width}%; margin-left: ${change < 0 ? 50 - width : 50}%` });
    return element(
      "td",
      {},
      signed(change),
      ofRun(change < 0 ? 0 : 1, "span", { class: "bar", "aria-hidden": "true" }, bar),
    );
  }

  function cells(entry, columns) {
    return columns.map((column) => {
      const found = value(entry, column);
      if (column.run === undefined) return element("td", { class: column.key }, String(found));
      const start = column.run === 0 ? { "data-start": "" } : {};
      if (found === undefined) return element("td", { ...start, class: "unknown" }, "–");
      if (column.run === "difference") return differenceCell(found);
      const all = entry.scores.map((scores) => scores?.[column.key] ?? -1);
      const best = page.runs.length > 1 && found === Math.max(...all) && all.some((other) => other < found);
      return element("td", best ? { ...start, class: "best" } : start, percent(found));
    });
  }

  function listSequences() {
    const groups = element("tr", {}, element("th", { colspan: PLAIN }));
    const spread = page.runs.length + (page.compare ? 1 : 0);
    for (const group of ["success", "precision"])
      groups.append(element("th", { colspan: spread, scope: "colgroup", "data-start": "" }, group));
    const focused = document.activeElement?.closest?.("#sequences th")?.dataset.column;
    byId("sequences").tHead.replaceChildren(groups, element("tr", {}, ...COLUMNS.map(heading)));
    if (focused) byId("sequences").tHead.querySelector(`[data-column="${focused}"] button`).focus();
    const rows = ordered().map(({ entry, index }) => {
      const link = element(
        "a",
        { href: `#${new URLSearchParams({ sequence: entry.name })}`, title: entry.name },
        entry.name,
      );
      const row = element("tr", {}, element("td", {}, link), ...cells(entry, COLUMNS.slice(1)));
      row.dataset.index = index;
      if (index === chosen) row.setAttribute("aria-current", "true");
      row.addEventListener("click", (event) => {
        event.preventDefault();
        choose(index);
      });
      return row;
    });
    byId("sequences").tBodies[0].replaceChildren(...rows);
    const mean = { scores: page.runs.map((run) => run.means) };
    byId("sequences").tFoot.replaceChildren(
      element("tr", {}, element("td", { colspan: PLAIN }, "mean"), ...cells(mean, COLUMNS.slice(PLAIN))),
    );
  }

  function step(by) {
    const order = ordered().map((row) => row.index);
    if (order.length) choose(order[(order.indexOf(chosen) + by + order.length) % order.length]);
  }

  // One sequence

  function choose(index, frame = null) {
    pause();
    chosen = index;
    sequence = JSON.parse(byId(`sequence-${index}`).textContent);
    stops = sequence.pictures ? sequence.pictures.indices : Array.from({ length: sequence.frames }, (_, i) => i);
    images = new Map();
    for (const row of byId("sequences").tBodies[0].rows) {
      if (Number(row.dataset.index) === index) {
        row.setAttribute("aria-current", "true");
        row.scrollIntoView({ block: "nearest" });
      } else row.removeAttribute("aria-current");
    }
    byId("name").textContent = sequence.name;
    byId("facts").textContent = facts().join(" · ");
    byId("slider").max = stops.length - 1;
    byId("unpictured").hidden = Boolean(sequence.pictures);
    byId("unpictured").textContent =
      `This page has no pictures of this sequence: ask for them with --sequence ${sequence.name}`;
    byId("box-heading").textContent = `box (first pixel ${sequence.origin})`;
    readouts();
    charts();
    resize();
    seek(frame === null ? largestDifference() : frame);
  }

  function facts() {
    const parts = [
      sequence.panels === 2 ? `RGB and ${sequence.modality}` : "RGB alone",
      plural(sequence.frames, "frame"),
    ];
    const absent = sequence.truth.filter((box) => box === null).length;
    if (!sequence.annotated) parts.push("no ground truth beyond the first box");
    else if (absent) parts.push(`${absent} without ground truth`);
    const stride = sequence.pictures && stops.length > 1 ? stops[1] - stops[0] : 1;
    if (stride > 1) parts.push(`one in ${stride} frames pictured`);
    const lacking = page.runs.filter((_, run) => !sequence.runs[run]).map((run) => run.label);
    if (lacking.length) parts.push(`no result of ${lacking.join(", ")}`);
    return parts;
  }

  function readouts() {
    const rows = [null, ...page.runs.keys()].map((run) => {
      const on = run === null ? shown.truth : shown.runs[run];
      const box = element("input", { type: "checkbox" });
      box.checked = on;
      box.addEventListener("change", () => toggle(run));
      const label = element(
        "label",
        {},
        box,
        swatch(run),
        element("span", {}, run === null ? "ground truth" : page.runs[run].label),
      );
      const blanks = ["iou", "distance", "confidence", "box", "state"].map((name) => element("td", { class: name }));
      const parts = [element("th", { scope: "row" }, label), ...blanks];
      const row = run === null ? element("tr", { class: "truth" }, ...parts) : ofRun(run, "tr", {}, ...parts);
      row.dataset.run = run === null ? "truth" : run;
      row.classList.toggle("off", !on);
      return row;
    });
    byId("readout").tBodies[0].replaceChildren(...rows);
  }

  function toggle(run) {
    if (run === null) shown.truth = !shown.truth;
    else if (run < page.runs.length) shown.runs[run] = !shown.runs[run];
    readouts();
    charts();
    seek(stops[place]);
  }

  // Frames

  function nearest(frame) {
    let best = 0;
    stops.forEach((stop, index) => {
      if (Math.abs(stop - frame) < Math.abs(stops[best] - frame)) best = index;
    });
    return best;
  }

  function seek(frame) {
    goTo(nearest(frame));
  }

  function goTo(index) {
    place = Math.max(0, Math.min(stops.length - 1, index));
    const frame = stops[place];
    byId("slider").value = place;
    byId("slider").setAttribute("aria-valuetext", `frame ${frame + 1} of ${sequence.frames}`);
    byId("counter").textContent = `${frame + 1} / ${sequence.frames}`;
    for (const row of byId("readout").tBodies[0].rows) {
      const run = row.dataset.run === "truth" ? null : Number(row.dataset.run);
      for (const [name, [text, alarm]] of Object.entries(readings(run, frame))) {
        const cell = row.querySelector(`.${name}`);
        cell.textContent = text;
        cell.classList.toggle("alarm", Boolean(alarm));
      }
    }
    for (const chart of byId("charts").querySelectorAll("svg")) pointAt(chart, frame);
    draw(place);
    for (let ahead = 1; ahead <= PREFETCH; ahead++) picture(place + ahead);
    remember(frame);
  }

  function readings(run, frame) {
    const record = run === null ? null : sequence.runs[run];
    const box = run === null ? sequence.truth[frame] : record?.boxes[frame];
    const truth = sequence.truth[frame];
    const [iou, distance] = [record?.iou[frame] ?? null, record?.distance[frame] ?? null];
    const confidence = record?.confidence?.[frame] ?? null;
    const shift = [sequence.origin, sequence.origin, 0, 0];
    let state = ["", false];
    if (run === null) {
      if (!truth) state = [sequence.annotated ? "no box" : "not annotated", false];
    } else if (!record) state = ["no result", false];
    else if (record.lost?.[frame]) state = ["lost", true];
    else if (!box) state = ["no box", false];
    else if (iou === 0) state = ["no overlap", true];
    return {
      iou: [iou === null ? "–" : iou.toFixed(3)],
      distance: [distance === null ? "–" : `${distance.toFixed(1)} px`],
      confidence: [confidence === null ? "–" : confidence.toFixed(3)],
      box: [box ? box.map((number, i) => (number + shift[i]).toFixed(1)).join(", ") : "–"],
      state,
    };
  }

  function remember(frame) {
    const here = new URLSearchParams({ sequence: sequence.name, frame: frame + 1 });
    // Some browsers limit how often this may be called, which a drag over a curve exceeds.
    clearTimeout(remember.later);
    remember.later = setTimeout(() => history.replaceState(null, "", `#${here}`), 250);
  }

  function recall() {
    const there = new URLSearchParams(location.hash.slice(1));
    const index = page.sequences.findIndex((entry) => entry.name === there.get("sequence"));
    const first = ordered()[0]?.index ?? 0;
    const frame = there.get("frame");
    choose(index < 0 ? first : index, frame === null ? null : Math.max(0, Number(frame) - 1));
  }

  // Differences

  function overlap(a, b) {
    const width = Math.min(a[0] + a[2], b[0] + b[2]) - Math.max(a[0], b[0]);
    const height = Math.min(a[1] + a[3], b[1] + b[3]) - Math.max(a[1], b[1]);
    const inside = Math.max(0, width) * Math.max(0, height);
    const union = a[2] * a[3] + b[2] * b[3] - inside;
    return union > 0 ? inside / union : 0;
  }

  // How far apart the runs are that are shown: by IoU with the ground truth where there is one, else with one another.
  function differenceIn(frame, runs) {
    const ious = runs.map((record) => record.iou[frame]).filter((iou) => iou !== null);
    if (ious.length > 1) return Math.max(...ious) - Math.min(...ious);
    if (sequence.annotated) return 0;
    const boxes = runs.map((record) => record.boxes[frame]).filter((box) => box !== null);
    let most = 0;
    boxes.forEach((a, index) => {
      for (const b of boxes.slice(index + 1)) most = Math.max(most, 1 - overlap(a, b));
    });
    return most;
  }

  // The frame, among those that can be shown, in which runs differ most; the first one where they do not.
  function largestDifference() {
    const runs = sequence.runs.filter((record, run) => record && shown.runs[run]);
    let [best, most] = [stops[0], 0];
    for (const frame of stops) {
      const here = differenceIn(frame, runs);
      if (here > most) [best, most] = [frame, here];
    }
    return best;
  }

  // Pictures

  function picture(index) {
    if (!sequence.pictures || index >= stops.length) return null;
    if (!images.has(index)) {
      const image = new Image();
      image.src = `data:image/jpeg;base64,${sequence.pictures.images[index]}`;
      images.set(index, {
        image,
        ready: image.decode().then(
          () => image,
          () => null,
        ),
      });
      if (images.size > 8 * PREFETCH) images.delete(images.keys().next().value);
    }
    return images.get(index);
  }

  function draw(index) {
    const frame = stops[index];
    const wanted = picture(index);
    const [of, at] = [sequence, frame];
    // Boxes wait for their picture, so that they are never drawn on another frame's.
    const whenReady = (image) => {
      if (of !== sequence || at !== stops[place]) return;
      paint(image, frame);
    };
    if (wanted) wanted.ready.then(whenReady);
    else whenReady(null);
  }

  function frameSize() {
    return sequence.pictures ? sequence.pictures.frame : sequence.frame;
  }

  function resize() {
    const canvas = byId("view");
    const [width, height] = frameSize();
    const room = byId("stage").clientWidth - 36;
    const tallest = Math.max(180, window.innerHeight * 0.42);
    const gap = 6 * (sequence.panels - 1);
    const panel = Math.max(
      80,
      Math.min((room - gap) / sequence.panels, (tallest * width) / height, 2.5 * Math.max(width, 320)),
    );
    const density = window.devicePixelRatio || 1;
    const [w, h] = [panel * sequence.panels + gap, (panel * height) / width];
    canvas.style.width = `${w}px`;
    canvas.style.height = `${h}px`;
    canvas.width = Math.round(w * density);
    canvas.height = Math.round(h * density);
  }

  function paint(image, frame) {
    const canvas = byId("view");
    const pen = canvas.getContext("2d");
    const density = window.devicePixelRatio || 1;
    const gap = 6 * density * (sequence.panels - 1);
    const panel = (canvas.width - gap) / sequence.panels;
    const scale = panel / frameSize()[0];
    pen.fillStyle = "#101316";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.imageSmoothingQuality = "high";
    const captions = ["RGB", sequence.modality];
    for (let half = 0; half < sequence.panels; half++) {
      const left = half * (panel + gap);
      pen.save();
      pen.beginPath();
      pen.rect(left, 0, panel, canvas.height);
      pen.clip();
      if (image) {
        const width = image.naturalWidth / sequence.panels;
        const source = brightened(image);
        pen.drawImage(source, half * width, 0, width, image.naturalHeight, left, 0, panel, canvas.height);
      } else {
        pen.fillStyle = "#1d2227";
        pen.fillRect(left, 0, panel, canvas.height);
      }
      if (shown.truth) outline(pen, sequence.truth[frame], left, scale, "#ffffff", 1.4 * density, "");
      sequence.runs.forEach((record, run) => {
        if (record && shown.runs[run])
          outline(pen, record.boxes[frame], left, scale, color(run), 2.2 * density, dashes(run), density);
      });
      caption(pen, captions[half], left + 8 * density, 8 * density, density);
      pen.restore();
    }
    canvas.dataset.frame = frame;
    canvas.dataset.sequence = sequence.name;
    canvas.setAttribute(
      "aria-label",
      `Frame ${frame + 1} of ${sequence.name} with the boxes that the table below gives`,
    );
  }

  // A gamma brightens dark pictures and leaves black and white as they are, which a factor does not.
  function brightened(image) {
    if (gamma === 1) return image;
    if (brightened.image === image && brightened.gamma === gamma) return brightened.canvas;
    const canvas = element("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    pen.drawImage(image, 0, 0);
    const pixels = pen.getImageData(0, 0, canvas.width, canvas.height);
    const levels = Array.from({ length: 256 }, (_, level) => Math.round(255 * (level / 255) ** (1 / gamma)));
    for (let at = 0; at < pixels.data.length; at++) if (at % 4 !== 3) pixels.data[at] = levels[pixels.data[at]];
    pen.putImageData(pixels, 0, 0);
    Object.assign(brightened, { image, gamma, canvas });
    return canvas;
  }

  function brighten(value) {
    gamma = value;
    byId("brightness").value = value;
    draw(place);
  }

  // Same colors as the curves have in the dark theme, because pictures of the night are dark in any theme.
  function color(run) {
    const parts = page.runs[run].color.match(/[0-9a-f]{2}/gi).map((part) => parseInt(part, 16));
    return `rgb(${parts.map((part) => Math.round(part + 0.22 * (255 - part))).join(" ")})`;
  }

  function outline(pen, box, left, scale, ink, width, dash, density = 1) {
    if (!box) return;
    const around = [left + box[0] * scale, box[1] * scale, Math.max(1, box[2] * scale), Math.max(1, box[3] * scale)];
    pen.setLineDash([]);
    pen.strokeStyle = "#000000b0";
    pen.lineWidth = width + 2.4;
    pen.strokeRect(...around);
    pen.setLineDash(dash ? dash.split(" ").map((part) => part * 1.4 * density) : []);
    pen.strokeStyle = ink;
    pen.lineWidth = width;
    pen.strokeRect(...around);
    pen.setLineDash([]);
  }

  function caption(pen, text, x, y, density) {
    pen.font = `600 ${12 * density}px system-ui, sans-serif`;
    const width = pen.measureText(text).width;
    pen.fillStyle = "#101316c0";
    pen.fillRect(x, y, width + 12 * density, 20 * density);
    pen.fillStyle = "#f2f2f2";
    pen.textBaseline = "middle";
    pen.fillText(text, x + 6 * density, y + 10.5 * density);
  }

  // Curves

  const middle = (frame) => ((frame + 0.5) / sequence.frames) * 1000;

  function stretches(flags) {
    const found = [];
    flags.forEach((flag, frame) => {
      if (!flag) return;
      const last = found[found.length - 1];
      if (last && last[1] === frame) last[1] = frame + 1;
      else found.push([frame, frame + 1]);
    });
    return found.map(([from, to]) => [(from / sequence.frames) * 1000, ((to - from) / sequence.frames) * 1000]);
  }

  function charts() {
    const absent = stretches(sequence.truth.map((box) => box === null));
    const confident = sequence.runs.some((record) => record?.confidence);
    const made = [];
    const strip = confident ? "confidence" : "iou";
    if (sequence.annotated) made.push(chart("iou", "IoU with the ground truth", 120, absent, strip));
    if (confident) made.push(chart("confidence", "confidence", 90, sequence.annotated ? absent : [], strip));
    if (!made.length) made.push(element("p", { class: "note" }, "Neither ground truth nor confidences: no curves."));
    else made[made.length - 1].append(ticks());
    byId("charts").replaceChildren(...made);
    const key = [];
    if (sequence.annotated && absent.length) {
      const box = drawing("rect", { width: 22, height: 10, fill: "url(#hatch)" });
      key.push(
        element(
          "span",
          {},
          drawing("svg", { viewBox: "0 0 22 10", "aria-hidden": "true" }, box),
          "no ground truth: the target is absent, or not annotated",
        ),
      );
    }
    if (sequence.runs.some((record) => record?.lost?.some(Boolean))) {
      const box = drawing("rect", { y: 3, width: 22, height: 4, fill: "currentColor" });
      key.push(
        element(
          "span",
          {},
          drawing("svg", { viewBox: "0 0 22 10", "aria-hidden": "true" }, box),
          "a bar in a run's color: it says that the target is lost",
        ),
      );
    }
    if (!confident && made.length) key.push(element("span", {}, "no confidences were written"));
    byId("key").replaceChildren(...key);
  }

  function chart(name, title, height, absent, strip) {
    const values = sequence.runs.flatMap((record) => record?.[name] ?? []).filter((v) => v !== null);
    const low = Math.min(0, ...extremes(values));
    const high = Math.max(1, ...extremes(values));
    const y = (v) => 100 - (100 * (v - low)) / (high - low);
    const svg = drawing("svg", {
      viewBox: "0 0 1000 100",
      preserveAspectRatio: "none",
      height,
      role: "img",
      "aria-label": `${title} over frames; the table above has the values`,
    });
    svg.dataset.chart = name;
    for (const [x, width] of absent) svg.append(drawing("rect", { class: "shade", x, y: 0, width, height: 100 }));
    for (const v of [low, (low + high) / 2, high])
      svg.append(drawing("line", { class: "grid", x1: 0, x2: 1000, y1: y(v), y2: y(v) }));
    let strips = 0;
    sequence.runs.forEach((record, run) => {
      if (!record?.[name] || !shown.runs[run]) return;
      const own = { class: "run", style: `--color: ${page.runs[run].color}` };
      const group = drawing("g", own);
      group.dataset.run = run;
      if (record.lost?.some(Boolean) && name === strip) {
        const y = 100 + (300 + 500 * strips) / height;
        for (const [x, width] of stretches(record.lost))
          group.append(drawing("rect", { class: "lost", x, y, width, height: 300 / height }));
        strips += 1;
      }
      const line = drawing("path", { class: "curve", d: path(record[name], y) });
      if (dashes(run)) line.setAttribute("stroke-dasharray", dashes(run));
      group.append(line, drawing("path", { class: "dot" }));
      svg.append(group);
    });
    svg.style.marginBottom = `${strips ? 5 * strips + 3 : 0}px`;
    svg.append(drawing("line", { class: "playhead", y1: 0, y2: 100 }));
    svg.level = y;
    const follow = (event) => {
      const area = svg.getBoundingClientRect();
      const at = Math.floor(((event.clientX - area.left) / area.width) * sequence.frames);
      seek(Math.max(0, Math.min(sequence.frames - 1, at)));
    };
    svg.addEventListener("pointerdown", (event) => {
      pause();
      svg.setPointerCapture(event.pointerId);
      follow(event);
    });
    svg.addEventListener("pointermove", (event) => {
      if (svg.hasPointerCapture(event.pointerId)) follow(event);
    });
    const scale = element("div", { class: "scale", style: `height: ${height}px`, "aria-hidden": "true" });
    for (const v of [low, (low + high) / 2, high])
      scale.append(element("span", { style: `top: ${y(v)}%` }, String(Number(v.toPrecision(2)))));
    return element("div", { class: "chart" }, element("h3", {}, title), scale, svg);
  }

  // Spreading a long list into Math.min would overflow the stack.
  function extremes(values) {
    return values.length ? [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))] : [];
  }

  function path(values, y) {
    let d = "";
    values.forEach((v, frame) => {
      if (v === null) return;
      const before = frame > 0 && values[frame - 1] !== null;
      const after = frame + 1 < values.length && values[frame + 1] !== null;
      d += `${before ? "L" : "M"}${middle(frame).toFixed(2)} ${y(v).toFixed(2)}`;
      // A value between two gaps would be a line without length.
      if (!before && !after) d += "h0.01";
    });
    return d;
  }

  function ticks() {
    const rough = sequence.frames / 8;
    const unit = 10 ** Math.floor(Math.log10(Math.max(1, rough)));
    const every = [1, 2, 5, 10].map((k) => k * unit).find((size) => size >= rough) || 1;
    const row = element("div", { class: "ticks", "aria-hidden": "true" });
    for (let frame = 1; frame <= sequence.frames; frame = frame === 1 && every > 1 ? every : frame + every) {
      row.append(element("span", { style: `left: ${middle(frame - 1) / 10}%` }, String(frame)));
    }
    return row;
  }

  function pointAt(svg, frame) {
    const head = svg.querySelector(".playhead");
    head.setAttribute("x1", middle(frame));
    head.setAttribute("x2", middle(frame));
    for (const group of svg.querySelectorAll("g[data-run]")) {
      const v = sequence.runs[group.dataset.run][svg.dataset.chart][frame];
      group.querySelector(".dot").setAttribute("d", v === null ? "" : `M${middle(frame)} ${svg.level(v)}h0.01`);
    }
  }

  // Moving through a sequence

  function play() {
    if (place === stops.length - 1) goTo(0);
    let last = performance.now();
    const tick = (now) => {
      const pause_ = (1000 * (stops.length > 1 ? stops[1] - stops[0] : 1)) / Number(byId("speed").value);
      const steps = Math.floor((now - last) / pause_);
      if (steps > 0) {
        last += steps * pause_;
        goTo(place + steps);
      }
      if (place >= stops.length - 1) pause();
      else timer = requestAnimationFrame(tick);
    };
    timer = requestAnimationFrame(tick);
    byId("play").setAttribute("aria-label", "Pause");
  }

  function pause() {
    if (timer !== null) cancelAnimationFrame(timer);
    timer = null;
    byId("play").setAttribute("aria-label", "Play");
  }

  const playOrPause = () => (timer === null ? play() : pause());

  function nextFailure() {
    pause();
    const fails = (index) => sequence.runs.some((record, run) => shown.runs[run] && record?.iou[stops[index]] === 0);
    for (let ahead = 1; ahead <= stops.length; ahead++) {
      const index = (place + ahead) % stops.length;
      if (fails(index) && (index === 0 || !fails(index - 1))) {
        goTo(index);
        return;
      }
    }
  }

  const KEYS = {
    ArrowLeft: (event) => goTo(place - (event.shiftKey ? 10 : 1)),
    ArrowRight: (event) => goTo(place + (event.shiftKey ? 10 : 1)),
    Home: () => goTo(0),
    End: () => goTo(stops.length - 1),
    " ": playOrPause,
    n: () => step(1),
    p: () => step(-1),
    f: nextFailure,
    g: () => toggle(null),
    d: () => {
      pause();
      seek(largestDifference());
    },
    b: () => brighten(gamma === 1 ? 2.5 : 1),
  };

  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches?.("input[type=search], select, #brightness");
    const pressing = event.key === " " && event.target.matches?.("button, input[type=checkbox]");
    if (typing || pressing || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = /^[1-8]$/.test(event.key)
      ? () => toggle(Number(event.key) - 1)
      : KEYS[event.key] || KEYS[event.key.toLowerCase()];
    if (!act) return;
    event.preventDefault();
    if (event.key.startsWith("Arrow") || event.key === "Home" || event.key === "End") pause();
    act(event);
  });
  byId("slider").addEventListener("input", () => {
    pause();
    goTo(Number(byId("slider").value));
  });
  byId("play").addEventListener("click", playOrPause);
  byId("failure").addEventListener("click", nextFailure);
  byId("difference").addEventListener("click", KEYS.d);
  byId("difference").hidden = page.runs.length < 2;
  byId("brightness").addEventListener("input", () => brighten(Number(byId("brightness").value)));
  byId("filter").addEventListener("input", listSequences);
  window.addEventListener("resize", () => {
    resize();
    goTo(place);
  });
  window.addEventListener("hashchange", recall);

  const hatch = drawing("pattern", {
    id: "hatch",
    width: 6,
    height: 6,
    patternUnits: "userSpaceOnUse",
    patternTransform: "rotate(45)",
  });
  hatch.append(
    drawing("rect", { width: 6, height: 6, style: "fill: var(--shade)" }),
    drawing("rect", { width: 1.5, height: 6, style: "fill: var(--shade)" }),
  );
  document.body.append(
    drawing(
      "svg",
      { width: 0, height: 0, style: "position: absolute", "aria-hidden": "true" },
      drawing("defs", {}, hatch),
    ),
  );
  document.body.classList.toggle("single", page.sequences.length === 1);
  byId("filter").hidden = page.sequences.length < 9;
  byId("summary").textContent = page.summary;
  byId("note").textContent = page.note;
  page.runs.forEach((run, index) => {
    const figures =
      run.means.SR === undefined ? "" : `success ${percent(run.means.SR)}, precision ${percent(run.means.PR)}`;
    byId("legend").append(
      ofRun(
        index,
        "li",
        {},
        swatch(index),
        element("strong", {}, run.label),
        element("span", { class: "figures" }, figures),
      ),
    );
  });
  listSequences();
  recall();
})();
