// Ask the server every few seconds whether it is there, and show what the reader should know at the top of the page.
() => {
  const line = document.createElement("p");
  line.className = "sith-notice";
  line.setAttribute("role", "status");
  document.body.prepend(line);
  const show = (text) => { if (line.textContent !== text) line.textContent = text; };
  let run = null;
  const ask = async () => {
    try {
      const answer = await fetch("sith/pulse", { signal: AbortSignal.timeout(5000) });
      const now = await answer.json();
      run ??= now.run;
      if (run !== now.run) show("The server was started again. Load this page again; the basket is lost.");
      else show(now.notice ?? "");
    } catch {
      show("The server does not answer. It was stopped, or the connection is lost: start sith-hf explore again. What you see stays, but nothing answers a click.");
    }
  };
  ask();
  setInterval(ask, 3000);
}
