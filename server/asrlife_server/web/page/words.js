// Which words two texts share, by their longest common subsequence.

export function compared(before, after) {
  const a = before.split(" ").filter(Boolean), b = after.split(" ").filter(Boolean);
  const longest = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) longest[i][j] = a[i] === b[j] ? longest[i + 1][j + 1] + 1 : Math.max(longest[i + 1][j], longest[i][j + 1]);
  }
  const gone = a.map((word) => ({ word, changed: true })), come = b.map((word) => ({ word, changed: true }));
  for (let i = 0, j = 0; i < a.length && j < b.length;) {
    if (a[i] === b[j]) gone[i++].changed = come[j++].changed = false;
    else if (longest[i + 1][j] >= longest[i][j + 1]) i++;
    else j++;
  }
  return { gone, come };
}

// The words as nodes; each run of changed ones is inside one `tag`.
export function written(words, tag) {
  const fragment = document.createDocumentFragment();
  let run = null;
  words.forEach(({ word, changed }, n) => {
    const space = n ? " " : "";
    if (changed && run) run.textContent += ` ${word}`;
    else if (changed) fragment.append(space, run = Object.assign(document.createElement(tag), { textContent: word }));
    else fragment.append(space + word);
    if (!changed) run = null;
  });
  return fragment;
}
