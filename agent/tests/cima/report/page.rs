// SPDX-License-Identifier: Apache-2.0
//! What a real browser makes of reports.

use std::{env, fs, path::Path};

use serde_json::json;

use super::{Lists, browser::Browser, generate, hostile, incident_page};

/// A browser with the incident's report.
fn opened() -> Option<Browser> {
    let mut browser = Browser::start()?;
    browser.open(incident_page());
    Some(browser)
}

impl Browser {
    /// Texts of the elements that `selector` selects.
    #[track_caller]
    fn texts(&mut self, selector: &str) -> Vec<String> {
        let expression = format!(
            "[...document.querySelectorAll({selector:?})].map((one) => one.innerText.trim())"
        );
        serde_json::from_value(self.eval(&expression)).unwrap()
    }

    /// How many elements that `selector` selects can be seen.
    #[track_caller]
    fn visible(&mut self, selector: &str) -> u64 {
        let expression = format!(
            "[...document.querySelectorAll({selector:?})].filter((one) => one.checkVisibility()).length"
        );
        self.eval(&expression).as_u64().unwrap()
    }

    /// Rows of the table of events.
    #[track_caller]
    fn rows(&mut self) -> Vec<String> {
        self.texts("#event-table tbody tr:not(.more)")
    }

    /// How many events fit the filters.
    #[track_caller]
    fn fitting(&mut self) -> u64 {
        let said = self.texts("#shown").remove(0);
        let number = said.split(' ').next().unwrap().replace(',', "");
        number.parse().unwrap()
    }

    /// Gives a field a value, as somebody would.
    #[track_caller]
    fn set(&mut self, id: &str, value: &str) {
        let expression = format!(
            "(() => {{ const own = document.getElementById({id:?}); if (own.type === 'checkbox') own.checked = {value:?} === 'on'; \
             else own.value = {value:?}; own.dispatchEvent(new Event('input', {{bubbles: true}})); }})()"
        );
        self.eval(&expression);
    }

    #[track_caller]
    fn click(&mut self, selector: &str) {
        self.eval(&format!("document.querySelector({selector:?}).click()"));
    }

    /// Fails if the page loaded anything but itself, or something went wrong.
    #[track_caller]
    fn is_fine(&mut self, page: &Path) {
        let complaints = self.complaints();
        assert!(complaints.is_empty(), "{complaints:#?}");
        assert_eq!(self.loaded(), [format!("file://{}", page.display())]);
    }
}

#[test]
fn a_report_is_drawn_without_an_error_and_loads_nothing() {
    let Some(mut browser) = opened() else { return };
    assert_eq!(
        browser.texts("h1"),
        ["2 of 4 containers have findings against them"]
    );
    let verdicts = browser.texts("#findings tbody .badge");
    assert_eq!(verdicts, ["bad", "bad", "unknown", "good"]);
    assert_eq!(browser.visible("#chart svg .lane"), 4);
    assert!(browser.visible("#chart .mark-drift") >= 2);
    assert!(browser.visible("#chart .mark-violation") >= 2);
    assert_eq!(browser.rows().len(), 200);
    browser.is_fine(incident_page());
}

#[test]
fn filters_narrow_what_is_shown_and_a_reset_takes_them_back() {
    let Some(mut browser) = opened() else { return };
    let all = browser.fitting();
    browser.set("text", "KWORKER");
    let of_text = browser.fitting();
    assert!((1..20).contains(&of_text), "{of_text}");
    browser.set("kind", "anonymous");
    assert_eq!(browser.fitting(), 1);
    browser.set("text", "");
    browser.set("kind", "");
    browser.set("only-violations", "on");
    let rows = browser.rows();
    assert!(
        rows.len() < 10 && rows.iter().all(|row| row.contains("violation")),
        "{rows:?}"
    );
    browser.set("only-violations", "");
    browser.set("only-drift", "on");
    let rows = browser.rows();
    assert!(
        rows.iter().any(|row| row.contains("/tmp/.cache/miner")),
        "{rows:?}"
    );
    assert!(
        rows.iter()
            .all(|row| row.contains("not as in the reference")),
        "{rows:?}"
    );
    browser.set("only-drift", "");
    let redis = "[...document.getElementById('container').options].find((one) => one.textContent === 'shop-redis').value";
    let redis = browser.eval(redis);
    browser.set("container", redis.as_str().unwrap());
    assert!(browser.fitting() < all);
    assert!(browser.rows().iter().all(|row| row.contains("shop-redis")));
    browser.click("#start-over");
    assert_eq!(browser.fitting(), all);
    browser.click("#every");
    assert_eq!(browser.rows().len() as u64, all);
    browser.is_fine(incident_page());
}

#[test]
fn a_period_is_chosen_with_the_mouse_or_with_buttons_and_the_table_follows() {
    let Some(mut browser) = opened() else { return };
    let all = browser.fitting();
    browser.click("[data-zoom=in]");
    let half = browser.fitting();
    assert!(half < all, "{half} {all}");
    browser.click("[data-zoom=later]");
    assert_ne!(browser.fitting(), half);
    browser.click("[data-zoom=all]");
    assert_eq!(browser.fitting(), all);
    browser.eval("document.getElementById('chart').scrollIntoView()");
    let place = "(() => { const box = document.querySelector('#chart svg').getBoundingClientRect(); return [box.left, box.top, box.width]; })()";
    let place: [f64; 3] = serde_json::from_value(browser.eval(place)).unwrap();
    let at = |share: f64| (place[0] + place[2] * share, place[1] + 40.0);
    browser.drag(at(0.71), at(0.76));
    let chosen = browser.fitting();
    assert!((1..all / 4).contains(&chosen), "{chosen} of {all}");
    assert!(browser.rows().iter().any(|row| row.contains("kworker")));
    browser.is_fine(incident_page());
}

#[test]
fn an_event_that_is_named_is_found_and_opened() {
    let Some(mut browser) = opened() else { return };
    let id = browser.eval("document.querySelector('.drift a[data-event]').dataset.event");
    browser.set("kind", "exec");
    browser.click(".drift a[data-event]");
    assert_eq!(browser.rows().len(), 1);
    let details = browser.texts("#event-table tr.more").remove(0);
    for word in [id.as_str().unwrap(), "/tmp/.cache/kworker", "php-fpm("] {
        assert!(details.contains(word), "{word} is not in {details}");
    }
    browser.is_fine(incident_page());
}

#[test]
fn without_scripts_verdict_drift_and_violations_are_there() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    browser.call(
        "Emulation.setScriptExecutionDisabled",
        &json!({"value": true}),
    );
    browser.open(incident_page());
    let texts = browser.texts("main").remove(0);
    for word in [
        "/tmp/.cache/kworker",
        "the reference has another content there",
        "memory without a file is executable",
        "the registry docker.example is not one of this site",
        "needs JavaScript",
    ] {
        assert!(texts.contains(word), "{word} is not in {texts}");
    }
    assert_eq!(browser.visible(".scripted"), 0);
    assert!(browser.visible(".tree li") > 20);
    browser.is_fine(incident_page());
}

#[test]
fn on_paper_everything_is_open_and_nothing_is_to_press() {
    let Some(mut browser) = opened() else { return };
    browser.click("[data-tree=close]");
    let open = "[...document.querySelectorAll('details')].every((one) => one.open)";
    assert_eq!(browser.eval(open), false);
    browser.media("print", "dark");
    // The page hears of it when the browser comes to it.
    browser.eval(&format!(
        "new Promise((done) => {{ const end = Date.now() + 5000; \
         const look = () => {open} || Date.now() > end ? done() : setTimeout(look, 20); look(); }})"
    ));
    assert_eq!(browser.eval(open), true);
    assert_eq!(browser.visible("nav, button, input, select"), 0);
    let rows = browser.rows().len() as u64;
    assert_eq!(rows, browser.fitting());
    let paper = browser.eval("getComputedStyle(document.body).backgroundColor");
    assert_eq!(paper, "rgb(255, 255, 255)");
    let pdf = browser.pdf();
    assert!(pdf.starts_with(b"%PDF-") && pdf.len() > 20_000);
    browser.media("screen", "light");
    browser.eval("new Promise((done) => setTimeout(done, 20))");
    assert_eq!(browser.eval(open), false);
    browser.is_fine(incident_page());
}

/// Contrast of each text with what is behind it, the least of all (WCAG 2.2, 1.4.3).
const LEAST_CONTRAST: &str = "(() => {
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = parts(color).map((part) => part / 255).map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const color = getComputedStyle(one).backgroundColor;
      if (color !== 'rgba(0, 0, 0, 0)') return color;
    }
    return 'rgb(255, 255, 255)';
  };
  const texts = [...document.querySelectorAll('body *')].filter((one) => one.checkVisibility() && !one.disabled
    && [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim() !== ''));
  return Math.min(...texts.map((one) => {
    const style = getComputedStyle(one);
    const [a, b] = [light(one.closest('svg') ? style.fill : style.color), light(behind(one))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }));
})()";

#[test]
fn it_is_readable_in_the_light_and_in_the_dark() {
    let Some(mut browser) = opened() else { return };
    let mut papers = Vec::new();
    for scheme in ["light", "dark"] {
        browser.media("screen", scheme);
        let paper = browser.eval("getComputedStyle(document.body).backgroundColor");
        papers.push(paper.as_str().unwrap().to_owned());
        let contrast = browser.eval(LEAST_CONTRAST).as_f64().unwrap();
        assert!(contrast >= 4.5, "{scheme}: {contrast}");
    }
    assert_ne!(papers[0], papers[1]);
    browser.size(400, 800);
    let wide = "document.documentElement.scrollWidth";
    assert_eq!(browser.eval(wide), 400, "it does not fit a small window");
    browser.is_fine(incident_page());
}

#[test]
fn it_can_be_used_without_a_mouse_and_without_eyes() {
    let Some(mut browser) = opened() else { return };
    for landmark in ["header", "nav[aria-label]", "main", "footer"] {
        assert_eq!(browser.visible(landmark), 1, "{landmark}");
    }
    let nameless = "[...document.querySelectorAll('button, input, select, a, summary, [role=region], svg')].filter((one) => \
        !one.textContent.trim() && !one.getAttribute('aria-label') && !one.labels?.length).map((one) => one.outerHTML)";
    assert_eq!(browser.eval(nameless), json!([]));
    let headless = "[...document.querySelectorAll('table')].filter((one) => !one.tHead \
        || [...one.querySelectorAll('th')].some((cell) => !cell.scope)).length";
    assert_eq!(browser.eval(headless), 0);
    let twice = "(() => { const ids = [...document.querySelectorAll('[id]')].map((one) => one.id); return ids.length - new Set(ids).size; })()";
    assert_eq!(browser.eval(twice), 0);
    let dangling = "[...document.querySelectorAll('[aria-labelledby], a[href^=\"#\"]')].filter((one) => \
        !document.getElementById(one.getAttribute('aria-labelledby') ?? one.getAttribute('href').slice(1))).length";
    assert_eq!(browser.eval(dangling), 0);
    browser.key("Tab");
    assert_eq!(browser.eval("document.activeElement.className"), "skip");
    browser.eval("document.querySelector('#event-table button').focus()");
    browser.eval("document.activeElement.click()");
    assert_eq!(browser.visible("#event-table tr.more"), 1);
    assert_eq!(
        browser.eval("document.activeElement.getAttribute('aria-expanded')"),
        "true"
    );
    browser.is_fine(incident_page());
}

#[test]
fn hostile_lists_run_nothing() {
    let lists = Lists::new(0, hostile::generate);
    let Some(mut browser) = Browser::start() else {
        return;
    };
    for from in ["nodes/node-names", "nodes"] {
        let (path, page) = lists.page(from, &[]);
        assert!(
            page.is_ascii()
                || page
                    .chars()
                    .all(|char| char.is_ascii() || "\u{25b2}\u{25bc}".contains(char))
        );
        assert!(page.len() < 8 << 20, "{from}: {}", page.len());
        browser.open(&path);
        assert!(browser.fitting() > 20);
        browser.click("#every");
        browser
            .eval("document.querySelectorAll('#event-table button').forEach((one) => one.click())");
        browser.set("text", "<script>");
        assert!(browser.fitting() >= 1);
        let foreign = "document.querySelectorAll('img, b, iframe, object, embed, link, base, [onerror], [style]').length";
        assert_eq!(browser.eval(foreign), 0, "{from}");
        assert_eq!(browser.eval("document.scripts.length"), 2, "{from}");
        assert!(browser.texts("main").remove(0).contains("more bytes]"));
        browser.is_fine(&path);
    }
}

#[test]
fn a_report_of_many_events_is_there_at_once_and_says_what_is_left_out() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let lists = Lists::new(30_000, generate);
    let (path, page) = lists.page("nodes", &[]);
    assert!(page.len() < 20 << 20, "{}", page.len());
    browser.open(&path);
    assert_eq!(browser.fitting(), 20_000);
    let said = browser.texts("#left-out").remove(0);
    assert!(
        said.contains("the latest 20000 events") && said.contains("--until"),
        "{said}"
    );
    assert!(
        browser
            .texts("#tree .left-out")
            .remove(0)
            .contains("the latest 2000")
    );
    browser.set("text", "no such thing at all");
    assert_eq!(browser.fitting(), 0);
    browser.is_fine(&path);
}

/// Bytes that the README's picture may have.
const PICTURE: usize = 250_000;

/// To make it again: `CIMA_PICTURE=docs/report.png cargo test -p cima-agent --test cima picture`.
#[test]
fn a_picture_of_a_report_is_fit_for_the_readme() {
    let Some(mut browser) = opened() else { return };
    browser.size(1180, 1370);
    // As it would be where people are.
    for (nth, text) in [
        "cima report --from edge-2/ --reference references/ -o report.html",
        "desk",
    ]
    .iter()
    .enumerate()
    {
        browser.eval(&format!(
            "document.querySelectorAll('header dd code')[{nth}].textContent = {text:?}"
        ));
    }
    let picture = browser.picture();
    assert!(picture.len() <= PICTURE, "{} bytes", picture.len());
    if let Some(path) = env::var_os("CIMA_PICTURE") {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        fs::write(root.join(path), picture).unwrap();
    }
}
