"""The page of the user study: three pictures, the keys 1, 2 and 3, and the result at the end."""

import base64
from html import escape
from typing import Any

import gradio as gr

from talkinghead.study.session import Session, Trial
from talkinghead.study.study import Study
from talkinghead.study.user_score import accuracy

SCRIPT = """
const answer = (choice) => {
  const card = element.querySelector('[data-number]');
  if (!card || card.classList.contains('sent')) return;
  card.classList.add('sent');
  card.querySelector(`[data-choice="${choice}"]`).classList.add('chosen');
  setTimeout(() => card.classList.remove('sent'), 5000);
  trigger('answer', {choice: Number(choice), number: Number(card.dataset.number)});
};
const begin = (button) => {
  if (!button || button.disabled) return;
  button.disabled = true;
  setTimeout(() => { button.disabled = false; }, 5000);
  trigger('begin');
};
element.addEventListener('click', (event) => {
  const picture = event.target.closest('[data-choice]');
  if (picture) answer(picture.dataset.choice);
  begin(event.target.closest('[data-begin]'));
});
document.addEventListener('keydown', (event) => {
  if (!element.isConnected || event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  if (['1', '2', '3'].includes(event.key)) answer(event.key);
  if (event.key === 'Enter' && document.activeElement === document.body) begin(element.querySelector('[data-begin]'));
});
"""

STYLE = """
.card { min-width: min(56rem, 100vw - 12rem); max-width: 62rem; margin: 0 auto; text-align: center; font-size: 1rem; }
.card h2 { margin: 0.5rem 0 1rem; font-size: 1.5rem; }
.card p { margin: 0.8rem auto; max-width: 44rem; line-height: 1.6; }
.card kbd { display: inline-block; padding: 0 0.6rem; border: 1px solid #8888; border-radius: 0.3rem; }
.bar { height: 0.4rem; border-radius: 0.2rem; background: #8883; overflow: hidden; }
.bar div { height: 100%; background: #f97316; }
.triplet { display: grid; grid-template-columns: repeat(3, 1fr); gap: 1rem; margin: 1rem 0; align-items: start; }
.triplet button { display: block; border: 3px solid transparent; border-radius: 0.6rem; padding: 0 0 0.6rem;
  background: none; cursor: pointer; }
.triplet button:hover, .triplet button:focus-visible, .triplet .chosen { border-color: #f97316; outline: none; }
.triplet span { display: block; aspect-ratio: 1; background-image: var(--pictures); background-size: 300% 100%;
  border-radius: 0.4rem; margin-bottom: 0.6rem; }
.sent { opacity: 0.5; }
.card table { margin: 1rem auto; border-collapse: collapse; }
.card table, .card thead, .card tbody, .card tr { border: none !important; }
.card th, .card td { padding: 0.35rem 1rem; border: none; border-bottom: 1px solid #8884; text-align: right; }
.card th:first-child, .card td:first-child { text-align: left; }
.begin { padding: 0.6rem 1.6rem; border-radius: 0.5rem; background: #f97316; color: white; font-size: 1.1rem;
  font-weight: 400; cursor: pointer; }
"""


def build_study(page: gr.Blocks, study: Study, per_participant: int = 30) -> gr.HTML:
    """Build the study's page; call it inside `with page:` or `with page.route(...):`.

    Of a triplet, only its picture leaves the server, and no file is served. A participant is a random number that the
    browser stores, so a reload continues where it was.
    """
    sitting = Session(study, per_participant)
    participant = gr.BrowserState(None, storage_key=f"talkinghead-{study.name}", secret=study.name)
    card = gr.HTML("", css_template=STYLE, js_on_load=SCRIPT, elem_id="study")

    def show(known: str | None) -> str:
        return draw(sitting, str(known)) if sitting.knows(known) else draw_instructions(sitting.total)

    def begin(known: str | None) -> tuple[str, str]:
        unfinished = sitting.knows(known) and sitting.show(str(known)).triplet is not None
        new = str(known) if unfinished else sitting.begin()
        return draw(sitting, new), new

    def answer(known: str | None, given: gr.EventData) -> str:
        if sitting.knows(known):
            sitting.answer(str(known), int(given.number), int(given.choice))
        return show(known)

    quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
    page.load(show, participant, card, **quiet)
    card.begin(begin, participant, [card, participant], **quiet)
    card.answer(answer, participant, card, **quiet)
    return card


def draw(sitting: Session, participant: str) -> str:
    """The next triplet, or the result when all are answered."""
    turn = sitting.show(participant)
    return draw_result(sitting, participant) if turn.triplet is None else draw_turn(sitting.study, turn)


def draw_instructions(total: int) -> str:
    """The card with the instructions, shown before the first triplet."""
    return (
        '<div class="card"><h2>Which picture is the fake?</h2>'
        f"<p>You will see three pictures of one person, {total} times. Two are frames of a video; one was generated by "
        "a neural network. <b>Find the generated one.</b></p>"
        "<p>Press the key <kbd>1</kbd>, <kbd>2</kbd> or <kbd>3</kbd>, or click the picture. If you cannot tell, guess. "
        "Your time is taken, but there is no limit. You are told at the end how many you have found.</p>"
        "<p>Your answers are kept under a random number, without a name or an address.</p>"
        '<button class="begin" data-begin>Begin</button></div>'
    )


def draw_turn(study: Study, turn: Trial) -> str:
    """The card with a triplet: the browser shows three parts of one picture."""
    assert turn.triplet is not None
    content = base64.b64encode(study.picture(turn.triplet).read_bytes()).decode()
    buttons = "".join(
        f'<button data-choice="{n}" aria-label="Picture {n} is the fake">'
        f'<span style="background-position: {50 * (n - 1)}% 0"></span><kbd>{n}</kbd></button>'
        for n in (1, 2, 3)
    )
    return (
        f'<div class="card" data-number="{turn.number}"><h2>Which picture is the fake?</h2>'
        f'<p class="place">{turn.number} of {turn.total}</p>'
        f'<div class="bar"><div style="width: {100 * (turn.number - 1) / turn.total:.1f}%"></div></div>'
        f'<div class="triplet" style="--pictures: url(data:image/jpeg;base64,{content})">{buttons}</div></div>'
    )


def draw_result(sitting: Session, participant: str) -> str:
    """The card with the participant's accuracy for each method and T."""
    rows = sitting.rows(participant)
    correct = sum(row["correct"] == "1" for row in rows)
    lines = "".join(
        f"<tr><td>{escape(key.method if key.variant == '-' else f'{key.method}, {key.variant}')}</td><td>{key.T}</td>"
        f"<td>{one.correct} of {one.answers}</td><td>{one.share:.0%}</td>"
        f"<td>{one.interval[0]:.0%} to {one.interval[1]:.0%}</td></tr>"
        for key, one in accuracy(rows).items()
    )
    return (
        '<div class="card" data-done><h2>Thank you</h2>'
        f"<p>You have found <b>{correct} of {len(rows)}</b> fakes. Guessing finds one in three.</p>"
        "<table><thead><tr><th>method</th><th>T</th><th>found</th><th>accuracy</th><th>95 % interval</th></tr></thead>"
        f"<tbody>{lines}</tbody></table>"
        "<p>Does somebody else want to take part at this computer?</p>"
        '<button class="begin" data-begin>Begin anew</button></div>'
    )
