// What the page does by itself: words follow the sound and can be clicked, sound is played while it is made, keys work.
(() => {
  const near = (place, selector) => place instanceof Element && place.closest(selector);

  // Words of a transcript and their player.
  document.addEventListener("click", (event) => {
    const word = near(event.target, ".sn-word, .sn-time");
    const player = word && word.closest(".sn-transcript").querySelector("audio");
    if (player) {
      player.currentTime = parseFloat(word.dataset.start);
      player.play().catch(() => {});
    }
  });
  document.addEventListener("timeupdate", (event) => {
    const transcript = near(event.target, ".sn-transcript");
    if (!transcript) return;
    const now = event.target.currentTime;
    for (const word of transcript.querySelectorAll(".sn-word")) {
      const isNow = word.dataset.start <= now && now < word.dataset.end;
      if (isNow && !word.classList.contains("sn-now")) {
        const lines = word.closest(".sn-lines"), line = word.closest("p");
        if (line.offsetTop < lines.scrollTop || line.offsetTop > lines.scrollTop + lines.clientHeight - 40)
          lines.scrollTop = line.offsetTop - 20;
      }
      word.classList.toggle("sn-now", isNow);
    }
  }, true);  // media events do not bubble

  // Speech while it is made: pieces of 16-bit samples, each played where the one before ends.
  let context = null, speech = null, next = 0, end = 0;
  const play = (sound) => {
    if (sound.dataset.speech !== speech) [speech, next, end] = [sound.dataset.speech, 0, 0];
    context = context || new AudioContext();
    for (const piece of sound.children) {
      if (parseInt(piece.dataset.piece) < next) continue;
      next = parseInt(piece.dataset.piece) + 1;
      const bytes = Uint8Array.from(atob(piece.dataset.pcm), (letter) => letter.charCodeAt(0));
      const samples = Float32Array.from(new Int16Array(bytes.buffer), (value) => value / 32768);
      if (!samples.length) continue;
      const buffer = context.createBuffer(1, samples.length, parseInt(sound.dataset.rate));
      buffer.copyToChannel(samples, 0);
      const source = context.createBufferSource();
      source.buffer = buffer;
      source.connect(context.destination);
      end = Math.max(end, context.currentTime + 0.05);
      source.start(end);
      end += buffer.duration;
    }
    document.documentElement.dataset.played = next;
  };
  const quiet = () => {
    if (context) context.close();
    [context, speech] = [null, null];
  };
  new MutationObserver(() => {
    for (const sound of document.querySelectorAll(".sn-pcm")) play(sound);
  }).observe(document, { childList: true, subtree: true });
  document.addEventListener("click", (event) => near(event.target, ".sn-stop") && quiet());

  // Keys: arrows change tabs, Ctrl+Enter runs the tab.
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      const run = [...document.querySelectorAll(".sn-run")].find((button) => button.offsetParent);
      if (run) run.click();
      event.preventDefault();
      return;
    }
    const tab = near(event.target, '[role="tab"]');
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!tab || !step) return;
    const tabs = [...tab.parentElement.querySelectorAll('[role="tab"]')];
    const other = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
    other.click();
    other.focus();
    event.preventDefault();
  });
})();
