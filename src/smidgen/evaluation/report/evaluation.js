"use strict";
// Shows the answers that the reader chose, and opens the category that a link names.
const box = document.getElementById("transcripts");
for (const input of document.querySelectorAll('input[name="show"]')) {
  input.addEventListener("change", () => { box.className = "only-" + input.value; });
}
const open = () => {
  const target = document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) target.open = true;
};
addEventListener("hashchange", open);
open();
