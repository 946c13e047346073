// The cells of an image that a server is scoring: their places from the plan, their values row by row.
//
// service/rest/shown_rows.py describes the rows. service/rest/viewer.py describes the plan.
"use strict";

// Rounds as numpy does, a half to the even number.
const rint = (number) => number % 1 === 0.5 ? 2 * Math.round(number / 2) : Math.round(number);

// Returns where blocks of `step` cells lie along an axis, as fullconv/page/document.py describes it: edges of what is
// drawn, first and last pixel of the windows. `scale` converts pixels that were scored to pixels of the image.
function axisOf({ count, origin, last, stride, window, scale }, step) {
  const places = Array.from({ length: count }, (_, at) => at === count - 1 ? last : origin + at * stride);
  const edges = Array.from({ length: count + 1 }, (_, at) => origin + at * stride + (window - stride) / 2);
  if (count > 1 && last !== origin + (count - 1) * stride) { // the last cell begins where the cell before it ends
    edges[count] = last + (window + stride) / 2;
    edges[count - 1] = edges[count - 2] + stride;
  }
  const firsts = places.filter((_, at) => at % step === 0);
  const lasts = places.filter((_, at) => at % step === step - 1 || at === count - 1);
  return {
    edges: [...edges.slice(0, count).filter((_, at) => at % step === 0), edges[count]].map((edge) => edge * scale),
    starts: firsts.map((place) => rint(place * scale)),
    ends: lasts.map((place) => rint((place + window) * scale)),
  };
}

function gridOf({ grid, image }, step) {
  const scaled = grid.scaled?.width ? grid.scaled : image;
  const axis = (count, origin, last, side) => axisOf({
    count, origin, last, stride: grid.stride[side], window: grid.window[side], scale: image[side] / scaled[side],
  }, step);
  return {
    step,
    rows: axis(grid.rows, grid.origin_y, grid.last_y, "height"),
    cols: axis(grid.cols, grid.origin_x, grid.last_x, "width"),
  };
}

class LiveCells extends Cells {
  // `colours` has a colour for each class of the plan, or is empty.
  constructor(plan, { kind, step, planes }, colours) {
    const grid = gridOf(plan, step), count = grid.rows.starts.length * grid.cols.starts.length;
    const others = [...plan.classes.keys()].filter((at) => !planes.includes(at)), order = [...planes, ...others];
    const classes = order.map((at) => ({ ...plan.classes[at], colour: colours[at] || null, cells: 0 }));
    const values = {
      kind: kind === "raw" ? "score" : "probability", low: 0, high: 1, bits: 16, top_bits: 32,
      classes, planes: planes.length, of: classes.length,
    };
    const empty = Array.from({ length: planes.length + 1 }, () => new Uint8Array(2 * count));
    super({ grid, values }, [new Uint8Array(4 * count).fill(255), ...empty]);
    this.positions = new Map(order.map((at, position) => [at, position]));
    this.ends = null; // lowest and highest value so far; `low` and `high` are further apart if they are equal
    this.rowsShown = 0;
  }

  // Takes the next rows; returns whether the range of the values has changed.
  add({ first, count, low, high, top, values }) {
    this.rowsShown = first + count;
    if (low === null) return false;
    const hasChanged = this.widen(low, high), at = first * this.cols;
    const tops = numbersOf(32, bytesOf(top)), numbers = numbersOf(16, bytesOf(values));
    for (let cell = 0; cell < tops.length; cell++) {
      if (tops[cell] === this.none) continue;
      const position = this.positions.get(tops[cell]);
      this.top[at + cell] = position;
      this.classes[position].cells++;
    }
    const isSame = low === this.low && high === this.high;
    [this.value, ...this.ofClass].forEach((plane, number) => {
      const part = numbers.subarray(number * tops.length, (number + 1) * tops.length);
      plane.set(isSame ? part : this.converted(part, low, high), at);
    });
    return hasChanged;
  }

  // Makes room for values from `low` to `high`; returns whether this changes the range.
  widen(low, high) {
    const [lowest, highest] = this.ends ?? [low, high], before = [this.low, this.high];
    this.ends = [Math.min(low, lowest), Math.max(high, highest)];
    this.low = this.ends[0];
    this.high = this.ends[1] > this.low ? this.ends[1] : this.low + 1;
    if (this.low === before[0] && this.high === before[1]) return false;
    for (const plane of [this.value, ...this.ofClass]) plane.set(this.converted(plane, ...before));
    return true;
  }

  // Returns numbers that were stored for a range as they are stored for this range.
  converted(stored, low, high) {
    const scale = (high - low) / (this.high - this.low), offset = (low - this.low) / (this.high - this.low) * this.max;
    return stored.map((number) => Math.min(Math.max(Math.round(number * scale + offset), 0), this.max));
  }
}
