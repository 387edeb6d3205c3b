// Tables that sort by a click on a column's name, and a hint where a table or chart is wider than the screen.
// Without this script the tables keep the order of the page.
"use strict";
(() => {
  const valueOf = (text) => {
    const time = text.match(/^(?:(\d+)\u00a0d ?)?(?:(\d+)\u00a0h ?)?(?:(\d+)\u00a0min ?)?(?:([\d.]+)\u00a0s)?$/);
    if (text && time) return 86400 * (time[1] ?? 0) + 3600 * (time[2] ?? 0) + 60 * (time[3] ?? 0) + Number(time[4] ?? 0);
    const number = text.replace(/[,\u00a0]/g, "").replace("−", "-").match(/^-?\d+(\.\d+)?(e[+-]?\d+)?/);
    return number ? Number(number[0]) : null;
  };
  // Numbers by size, before text by the alphabet; a missing figure is last in both directions.
  const compared = (a, b, direction) => {
    const [first, second] = [valueOf(a), valueOf(b)];
    if (a === "–" || b === "–") return (a === "–") - (b === "–");
    if (first !== null && second !== null) return direction * (first - second);
    if (first !== null || second !== null) return second !== null ? 1 : -1;
    return direction * a.localeCompare(b);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    if (body.rows.length < 2) continue;
    heads.forEach((head, place) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const direction = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
        const text = (row) => row.cells[place].textContent.trim();
        body.append(...[...body.rows].sort((a, b) => compared(text(a), text(b), direction)));
      });
    });
  }
  const boxes = [...document.querySelectorAll(".scroll")];
  const hints = boxes.map((box) => {
    const hint = document.createElement("p");
    hint.className = "hint";
    hint.textContent = "Wider than the screen: scroll sideways →";
    const outer = document.createElement("div");
    box.replaceWith(outer);
    outer.append(hint, box);
    return outer;
  });
  const look = () => boxes.forEach((box, place) => hints[place].classList.toggle("scrolls", box.scrollWidth > box.clientWidth + 1));
  addEventListener("resize", look);
  look();
})();
