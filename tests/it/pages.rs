//! The web page, in a browser: every page, every action, without an error on the
//! console and without a serious barrier.

use serde_json::{Value, json};

use crate::browser::Browser;
use crate::cli_support::{Data, Served, root};
use crate::guests::guest;

const INPUT: &str = r#"{"subject":"A loom","amount":250000,"patience":86400}"#;
const AS_JSON: &str = "content-type: application/json\r\n";

/// A server with `e1` and `e2` of `approval`, which wait, and `t1`, which has failed.
fn served(data: &Data) -> Served {
    let served = data.serve();
    data.run(&["upload", "examples/approval"]).ok();
    data.run(&["upload", "examples/trip-booking", "--service", "booking=http://127.0.0.1:9"]).ok();
    for id in ["e1", "e2"] {
        data.run(&["start", "approval", "--id", id, "--input", INPUT, "--tag", "desk=3"]).ok();
    }
    data.run(&["start", "trip_booking", "--id", "t1", "--input", "@examples/trip-booking/input.json", "--wait"])
        .failed(1);
    data.run(&["schedule", "set", "nightly", "approval", "--cron", "0 2 * * *", "--input", INPUT]).ok();
    served
}

fn get(served: &Served, path: &str) -> Value {
    let (status, body) = served.request("GET", &format!("/api/v1{path}"), "", "");
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

#[test]
fn pages_have_no_serious_barrier_and_no_error_in_light_dark_and_on_a_phone() {
    let data = Data::new("pages-axe");
    let served = served(&data);
    for (name, width, dark) in [("light", 1360, false), ("dark", 1360, true), ("phone", 400, false)] {
        let browser = Browser::open(&format!("axe-{name}"), &served.address, width, dark);
        for path in [
            "/",
            "/?prefix=none",
            "/ui/instances/e1",
            "/ui/instances/t1",
            "/ui/start?orchestration=trip_booking",
            "/ui/modules",
            "/ui/schedules",
            "/ui/queues",
            "/ui/host",
        ] {
            browser.go(path);
            browser.until("document.querySelector('#main h1')");
            assert_eq!(browser.barriers(), Vec::<String>::new(), "{name} {path}");
            assert_eq!(browser.errors(), Vec::<String>::new(), "{name} {path}");
            let too_wide = browser.eval("document.documentElement.scrollWidth > innerWidth");
            assert_eq!(too_wide, false, "{name} {path} is wider than the screen");
        }
        for path in ["/", "/ui/instances/e1"] {
            browser.go(path);
            browser.click("[data-opens]");
            browser.until("document.querySelector('dialog[open]')");
            assert_eq!(browser.barriers(), Vec::<String>::new(), "{name} {path} with a dialog");
            browser.press("Escape");
        }
    }
}

#[test]
fn instances_are_filtered_followed_live_and_acted_on() {
    let data = Data::new("pages-instances");
    let served = served(&data);
    let browser = Browser::open("instances", &served.address, 1360, false);

    // The list, its counts, its filters.
    browser.go("/");
    browser.sees("#tabs a", "All 3");
    browser.sees("#tabs a", "Failed 1");
    browser.sees("#live", "live");
    browser.press("/");
    browser.until("document.activeElement.name === 'prefix'");
    browser.fill("input[name=prefix]", "e");
    let loads = browser.eval("performance.timeOrigin");
    browser.press("Enter");
    browser.until(&format!(
        "performance.timeOrigin !== {loads} && document.querySelectorAll('#rows tbody tr').length === 2"
    ));
    assert_eq!(browser.eval("location.search"), "?prefix=e");
    // Its script runs by then, and hears the key.
    browser.sees("#live", "live");
    browser.press("j");
    browser.until("document.activeElement.textContent === 'e2'");
    // A new instance comes by itself.
    data.run(&["start", "approval", "--id", "e3", "--input", INPUT]).ok();
    browser.sees("#rows a", "e3");
    browser.go("/?tags=desk%3D3&status=running&orchestration=approval");
    assert_eq!(browser.eval("document.querySelectorAll('#rows tbody tr').length"), 2);
    browser.go("/?tags=nonsense");
    browser.sees("#main", "expected name=value");

    // Many at once: counted first.
    browser.errors();
    browser.go("/?prefix=e");
    browser.click("[data-opens=bulk]");
    browser.sees("#bulk .count", "3 instances");
    browser.choose("#bulk-action", "resume");
    browser.sees("#bulk .count", "0 instances");
    browser.until("document.querySelector('#bulk [type=submit]').disabled");
    browser.choose("#bulk-action", "suspend");
    browser.sees("#bulk .count", "3 instances");
    browser.click("#bulk [type=submit]");
    browser.sees(".toast", "Done to 3");
    browser.sees("#tabs a", "Suspended 3");

    // One of them, from the keyboard.
    browser.go("/ui/instances/e1");
    browser.sees("#waits", "It is suspended");
    browser.sees("#waits", "event “approved”");
    browser.sees("#waits [data-operation] .where", "lib.rs:");
    browser.click("[data-opens=do-resume]");
    browser.fill("#do-resume-reason", "lunch is over");
    browser.press("Enter");
    browser.sees("#head .badge", "running");
    browser.click("[data-opens=do-query]");
    browser.fill("#do-query-path", "standing");
    browser.click("#do-query [type=submit]");
    browser.sees(".toast pre", "A loom");
    browser.click("[data-opens=do-update]");
    browser.fill("#do-update-path", "extend");
    browser.fill("#do-update-body", "60");
    browser.click("#do-update [type=submit]");
    browser.sees(".toast pre", "answered");
    assert_eq!(browser.errors(), Vec::<String>::new());
    // What is refused is told in the dialog, and nothing is lost.
    browser.click("[data-opens=do-raise-event]");
    browser.fill("#do-raise-event-path", "approved");
    browser.fill("#do-raise-event-body", "{\"by\":");
    browser.click("#do-raise-event [type=submit]");
    browser.sees("#do-raise-event .problem", "this is not JSON");
    browser.fill("#do-raise-event-body", r#"{"by":"Grace"}"#);
    browser.click("#do-raise-event [type=submit]");
    browser.sees("#head .badge", "completed");
    browser.sees("#payloads", "Grace");
    browser.sees("#events .what", "event raised");
    assert_eq!(get(&served, "/instances/e1")["output"]["approved"]["by"], "Grace");
    // A fork from the middle, and the end of the original.
    browser.click("[data-opens=do-fork]");
    browser.fill("#do-fork-id", "e1/b");
    browser.fill("#do-fork-at", "5");
    browser.click("#do-fork [type=submit]");
    browser.sees(".toast pre", "e1/b");
    // What it shows is gone before the answer is there, and the page looks again just then.
    browser.eval(
        "(() => { const real = fetch; window.fetch = async (path, options) => { const answer = await real(path, options);
           if (path.endsWith('/purge')) await refresh(); return answer; }; })()",
    );
    browser.click("[data-opens=do-purge]");
    browser.follow("#do-purge [type=submit]");
    browser.until("location.pathname === '/'");
    assert_eq!(served.request("GET", "/api/v1/instances/e1", "", "").0, 404);
    browser.go("/ui/instances/e1%2Fb");
    browser.sees("#head", "Forked from");
    browser.click("[data-opens=do-terminate]");
    browser.fill("#do-terminate-reason", "enough");
    browser.click("#do-terminate [type=submit]");
    browser.sees("#head", "Ended because enough");
    assert_eq!(browser.errors(), Vec::<String>::new());
}

#[test]
fn a_history_is_searched_unfolded_and_has_its_logs() {
    let data = Data::new("pages-history");
    let served = served(&data);
    let browser = Browser::open("history", &served.address, 1360, false);
    browser.go("/ui/instances/t1");
    browser.sees("#head .badge", "failed");
    // The hotel was tried three times: three bars that failed, and what was between them.
    assert_eq!(browser.eval("document.querySelectorAll('rect.s-failed').length"), 3);
    assert_eq!(browser.eval("document.querySelectorAll('line.s-back-off').length"), 2);
    browser.sees(".labels", "hotel.reserve ×3");
    browser.sees(".log", "booking a trip");
    let before = browser.eval("document.querySelector('.log').previousElementSibling.id");
    let logs = get(&served, "/instances/t1/logs");
    assert_eq!(before, json!(format!("e{}", logs["lines"][0]["event"])));
    browser.fill("#search", "booking a trip");
    browser.until("[...document.querySelectorAll('#events > li')].filter((row) => !row.hidden).length === 1");
    browser.fill("#search", "connectionrefused");
    browser.until("[...document.querySelectorAll('#events > li:not([hidden])')].every((row) => row.matches('.t-bad'))");
    browser.fill("#search", "");
    browser.click("#show-logs");
    browser.until("!document.querySelector('.log')");
    browser.click("#unfold");
    browser.until("[...document.querySelectorAll('#events details')].every((one) => one.open)");
    browser.click("[data-zoom='2']");
    browser.until("document.querySelector('.chart svg').style.width === '200%'");
    // The slider: at its end, one event back, and at the beginning.
    browser.click("#replay > summary");
    browser.sees("#replay-view", "booking a trip");
    browser.sees("#replay-view .now", "failed");
    browser.click("[data-step='-1']");
    browser.until("document.querySelector('#replay-position').textContent.startsWith('event 9 of 10')");
    browser.sees("#replay-view .now", "activity failed");
    browser.eval("(() => { const s = document.querySelector('#replay-at'); s.value = 6; s.dispatchEvent(new Event('input')); })()");
    browser.sees("#replay-view .boxes", "hotel.reserve");
    browser.until("document.querySelector('#e6').classList.contains('here')");
    assert_eq!(browser.barriers(), Vec::<String>::new());
    browser.click("[data-opens=do-rewind]");
    browser.click("#do-rewind [type=submit]");
    browser.until("document.querySelector('.executions a[aria-current]')?.textContent === '2'");
    // A theme that is chosen stays.
    browser.click("#theme");
    browser.until("document.documentElement.dataset.theme === 'light'");
    browser.go("/ui/instances/t1?execution=1");
    assert_eq!(browser.eval("document.documentElement.dataset.theme"), "light");
    assert_eq!(browser.errors(), Vec::<String>::new());
}

#[test]
fn orchestrations_are_started_from_their_schema_and_modules_and_schedules_are_kept() {
    let data = Data::new("pages-start");
    let served = served(&data);
    let browser = Browser::open("start", &served.address, 1360, false);
    let field = |label: &str| {
        let found = format!(
            "[...document.querySelectorAll('#form label')].find((l) => l.textContent.startsWith('{label}')).htmlFor"
        );
        format!("#{}", browser.eval(&found).as_str().unwrap())
    };
    browser.go("/ui/start?orchestration=approval");
    browser.fill("#start-id", "from the page");
    browser.fill(&field("subject"), "A spindle");
    browser.fill(&field("amount"), "12");
    browser.fill(&field("patience"), "60");
    browser.click("#as-json");
    browser.until("JSON.parse(document.querySelector('#raw textarea').value).subject === 'A spindle'");
    browser.click("#as-json");
    browser.follow("#start [type=submit]");
    browser.sees("h1", "from the page");
    assert_eq!(
        get(&served, "/instances/from%20the%20page")["input"],
        json!({ "subject": "A spindle", "amount": 12, "patience": 60 })
    );
    assert_eq!(browser.errors(), Vec::<String>::new());
    // The id is taken: it is said, and what was typed stays.
    browser.go("/ui/start?orchestration=approval");
    browser.click("#as-json");
    browser.fill("#raw textarea", INPUT);
    browser.fill("#start-id", "e1");
    browser.click("#start [type=submit]");
    browser.sees("#start .problem", "e1");
    assert_eq!(browser.errors().len(), 1, "the browser itself notes that a request was refused");

    // Modules: one that is in use stays.
    browser.go("/ui/modules");
    browser.sees("#modules", "outbox.ask");
    let module = get(&served, "/modules")["modules"]
        .as_array()
        .unwrap()
        .iter()
        .find(|m| m["name"] == "approval")
        .unwrap()
        .clone();
    let short = &module["hash"].as_str().unwrap()[..12];
    browser.click(&format!("[data-opens=remove-{short}]"));
    browser.click(&format!("#remove-{short} [type=submit]"));
    browser.sees(&format!("#remove-{short} .problem"), "approval");
    browser.errors();
    browser.press("Escape");
    let (status, _) = served.request("GET", "/api/v1/instances?limit=1", AS_JSON, "");
    assert_eq!(status, 200);
    let file = data.path().join("trip.wasm");
    let built = root().join("examples/target/wasm32-wasip2/release/approval.wasm");
    if built.is_file() {
        std::fs::copy(built, &file).unwrap();
        browser.click("[data-opens=upload]");
        browser.give("#upload-file", &file);
        browser.fill("#upload-name", "again");
        browser.click("#upload [type=submit]");
        browser.sees("#modules h2", "again");
    }

    // Schedules.
    browser.go("/ui/schedules");
    browser.sees("#schedules", "nightly");
    browser.click("[data-opens=new-schedule]");
    browser.fill("#schedule-name", "hourly");
    browser.choose("#schedule-orchestration", "approval");
    browser.fill("#schedule-when", "1h");
    browser.fill("#schedule-input", INPUT);
    browser.click("#new-schedule [type=submit]");
    browser.sees("#schedules td", "hourly");
    assert_eq!(get(&served, "/schedules/hourly")["every_ms"], 3_600_000);
    let button = |what: &str, name: &str| {
        let found = format!(
            "[...document.querySelectorAll('#schedules tr')].find((r) => r.textContent.includes('{name}')).querySelector('[data-opens^={what}]').dataset.opens"
        );
        browser.eval(&found).as_str().unwrap().to_owned()
    };
    for (what, then) in [("trigger", "hourly/"), ("pause", "paused"), ("unpause", "every 1 h")] {
        let dialog = button(what, "hourly");
        browser.click(&format!("[data-opens={dialog}]"));
        browser.click(&format!("#{dialog} [type=submit]"));
        browser.until(&format!("!document.querySelector('#{dialog}')?.open"));
        browser.sees("#schedules", then);
    }
    browser.until("!document.querySelector('#schedules .badge')");
    let dialog = button("delete", "hourly");
    browser.click(&format!("[data-opens={dialog}]"));
    browser.click(&format!("#{dialog} [type=submit]"));
    browser.until("!document.querySelector('#schedules').textContent.includes('hourly')");

    // A call that nobody serves is seen as such, there and at its queue.
    browser.go("/ui/host");
    browser.sees("#tiles", "Commits per second");
    browser.until("document.querySelector('[data-rate=commits]').textContent !== '–'");
    assert_eq!(browser.errors(), Vec::<String>::new());
}

/// Drops a file on the page, as a hand would.
fn drop_on(browser: &Browser, file: &str) {
    browser.eval(&format!(
        "(() => {{ const data = new DataTransfer(); data.items.add({file});
           document.querySelector('#main').dispatchEvent(new DragEvent('drop', {{ dataTransfer: data, bubbles: true, cancelable: true }})); }})()"
    ));
}

#[test]
fn a_recording_that_is_dropped_on_the_page_opens_although_its_instance_is_gone() {
    let data = Data::new("pages-recording");
    let served = served(&data);
    let browser = Browser::open("recording", &served.address, 1360, false);
    browser.go("/");
    browser.eval(
        "fetch('/api/v1/instances/t1/recording?with_module=true').then((r) => r.blob())
            .then((b) => { window.recorded = new File([b], 't1.dacapo'); })",
    );
    data.run(&["purge", "t1"]).ok();
    browser.until("!document.querySelector('#rows').textContent.includes('t1')");
    drop_on(&browser, "window.recorded");
    browser.sees("h1.id", "t1");
    browser.sees(".head", "nothing of it is kept here");
    browser.sees(".facts", "(inside)");
    browser.sees("#timeline", "hotel.reserve");
    browser.sees(".badge", "failed");
    assert_eq!(browser.eval("document.title"), "Recording · dacapo");
    // Its history is searched, payloads included, and folded out.
    let shown = "[...document.querySelectorAll('#events > li')].filter((e) => !e.hidden).length";
    let all = browser.eval(shown).as_u64().unwrap();
    browser.fill("#search", "hotel.reserve");
    browser.until(&format!("{shown} > 0 && {shown} < {all}"));
    browser.fill("#search", "nothing of that kind");
    browser.until(&format!("{shown} === 0"));
    browser.eval("(() => { const s = document.querySelector('#search'); s.value = ''; s.dispatchEvent(new Event('input', { bubbles: true })); })()");
    browser.click("#unfold");
    browser.until("document.querySelector('#events details').open");
    assert_eq!(browser.barriers(), Vec::<String>::new());
    // What changes on the host does not take it away.
    data.run(&["terminate", "e1"]).ok();
    browser.sees("h1.id", "t1");
    assert_eq!(browser.errors(), Vec::<String>::new());

    // What is none is said, and the page stays. A file may also be chosen.
    browser.go("/");
    drop_on(&browser, "new File(['hello'], 'letter.txt')");
    browser.sees(".toast", "letter.txt: not a recording");
    browser.sees("h1", "Instances");
    browser.errors();
    let file = data.path().join("e2.dacapo");
    data.run(&["history", "e2", "--output", file.to_str().unwrap()]).ok();
    browser.give("#recording-file", &file);
    browser.sees("h1.id", "e2");
    browser.sees(".facts", "(not inside)");
    assert_eq!(browser.errors(), Vec::<String>::new());
}

#[test]
fn callers_and_called_upgrade_checks_and_timers_are_shown() {
    let data = Data::new("pages-family");
    let project = Data::new("pages-family-project");
    let manifest = "name = \"peers\"\n[orchestration]\npath = \"peers.wasm\"\n";
    std::fs::write(project.path().join("dacapo.toml"), manifest).unwrap();
    std::fs::write(project.path().join("peers.wasm"), guest("peers")).unwrap();
    let served = data.serve();
    data.run(&["upload", project.path().to_str().unwrap()]).ok();
    data.run(&["start", "branches", "--id", "tree", "--input", "2"]).ok();
    data.run(&["start", "waits", "--id", "sleeper", "--input", "86400000"]).ok();
    let browser = Browser::open("family", &served.address, 1360, false);

    browser.go("/ui/instances/tree");
    browser.sees("#children h2", "2 instances called by it");
    browser.until("document.querySelectorAll('#children .badge.is-running').length === 2");
    assert_eq!(browser.barriers(), Vec::<String>::new());
    browser.follow("#children a");
    browser.sees("#waits", "step.square");
    browser.follow("#parent");
    browser.sees("h1", "tree");

    // The check replays what runs; then it can be moved.
    let mut other = guest("peers").to_vec();
    other.extend(b"\0\x06\x04note!");
    std::fs::write(project.path().join("peers.wasm"), other).unwrap();
    data.run(&["upload", project.path().to_str().unwrap()]).ok();
    let modules = get(&served, "/modules")["modules"].clone();
    let hash = modules[0]["hash"].as_str().unwrap();
    browser.go("/ui/modules");
    browser.follow(&format!("#m-{} a[href*=check]", &hash[..12]));
    browser.sees(".check", "4 could go on with it, 0 could not");
    browser.sees(".check li", "tree");
    assert_eq!(browser.barriers(), Vec::<String>::new());
    browser.click(&format!("[data-opens=migrate-{}]", &hash[..12]));
    browser.click(&format!("#migrate-{} [type=submit]", &hash[..12]));
    browser.sees(".toast", "\"migrated\": 4");
    assert_eq!(get(&served, "/instances/tree")["module"], hash);

    // The sleeper is the one who waits for a time.
    browser.go("/ui/host");
    browser.sees("#tiles", "Timers1the next in 23 h 59 min");
    assert_eq!(get(&served, "/stats")["timers"], 1);
    assert_eq!(browser.errors(), Vec::<String>::new());
}
