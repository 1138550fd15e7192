// Only the rows that can be seen are in the document, however long the list is.

import { html, useLayoutEffect, useRef, useState } from "./html.js";

const BEYOND = 8;

/** Which of `count` rows of one height are near the screen: `{ first, last }`, for the element of `ref`. */
export function useWindowed(count, rowHeight) {
  const ref = useRef(null);
  const [range, setRange] = useState({ first: 0, last: 40 });
  useLayoutEffect(() => {
    let frame = null;
    const measure = () => {
      frame = null;
      const top = -ref.current.getBoundingClientRect().top;
      const first = Math.max(0, Math.floor(top / rowHeight) - BEYOND);
      const last = Math.ceil((top + innerHeight) / rowHeight) + BEYOND;
      setRange((now) => (now.first === first && now.last === last ? now : { first, last }));
    };
    const soon = () => (frame ??= requestAnimationFrame(measure));
    measure();
    addEventListener("scroll", soon, { passive: true });
    addEventListener("resize", soon);
    return () => {
      removeEventListener("scroll", soon);
      removeEventListener("resize", soon);
      if (frame) cancelAnimationFrame(frame);
    };
  }, [count, rowHeight]);
  const first = Math.min(range.first, Math.max(0, count - 1));
  return { ref, first, last: Math.max(first, Math.min(range.last, count)) };
}

/** The body of a table, with room kept for the rows that are not drawn. */
export function WindowedRows({ items, rowHeight, columns, row }) {
  const { ref, first, last } = useWindowed(items.length, rowHeight);
  const room = (rows) =>
    rows > 0 && html`<tr class="room" aria-hidden="true"><td colspan=${columns} style=${{ height: `${rows * rowHeight}px` }}></td></tr>`;
  return html`
    <tbody ref=${ref}>
      ${room(first)} ${items.slice(first, last).map((item, index) => row(item, first + index))} ${room(items.length - last)}
    </tbody>
  `;
}

/** What part of a scrolling element can be seen, in steps so that not every pixel counts as a change. */
export function useViewport(step) {
  const ref = useRef(null);
  const [viewport, setViewport] = useState({ left: 0, top: 0, width: 1200, height: 800 });
  useLayoutEffect(() => {
    const element = ref.current;
    let frame = null;
    const measure = () => {
      frame = null;
      const left = Math.floor(element.scrollLeft / step) * step;
      const top = Math.floor(element.scrollTop / step) * step;
      const { clientWidth: width, clientHeight: height } = element;
      setViewport((now) =>
        now.left === left && now.top === top && now.width === width && now.height === height ? now : { left, top, width, height },
      );
    };
    const soon = () => (frame ??= requestAnimationFrame(measure));
    const observer = new ResizeObserver(soon);
    observer.observe(element);
    element.addEventListener("scroll", soon, { passive: true });
    return () => {
      observer.disconnect();
      element.removeEventListener("scroll", soon);
      if (frame) cancelAnimationFrame(frame);
    };
  }, [step]);
  return [ref, viewport];
}
