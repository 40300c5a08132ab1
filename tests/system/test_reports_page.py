"""The companion's page, in a real browser: the button is pressed, and the file is seen."""
import hashlib
import os

import pytest
from pipeline import wait_for, write_roles
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

# A folder: each look of the tests leaves a picture there.
PICTURES = os.environ.get("ROLAG_PICTURES")


class Page:
    """A tab of a headless Chromium."""

    def __init__(self, web, folder, width=1100, height=1400, dark=False):
        self.web, self.downloads = web, os.path.join(folder, "downloads")
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                         "--hide-scrollbars", "--lang=en-GB", f"--window-size={width},{height}",
                         f"--user-data-dir={folder}/profile", *(["--force-dark-mode"] if dark else [])):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(service=Service("/usr/bin/chromedriver"), options=options)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]})
        self.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": self.downloads})
        self.shape(width, height)
        self.driver.get(f"http://127.0.0.1:{web.port}/")

    def shape(self, width, height):
        """Windows have a least width; phones have less."""
        self.width = width
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": False})

    def at(self, name):
        return self.driver.find_element(By.ID, name)

    def seen(self, what, condition):
        def look():
            try:
                return condition()
            except StaleElementReferenceException:
                return None
        return wait_for(what, look)

    def text(self, name):
        return self.at(name).text

    def enter(self, token):
        self.seen("the token to be asked for", lambda: self.at("token").is_displayed())
        self.at("token").send_keys(self.web.token.get(token, token), Keys.ENTER)

    def runs(self):
        return self.driver.find_elements(By.CSS_SELECTOR, "#runs > li")

    def first(self, state):
        """The newest run, once it says this."""
        return self.seen(f"a run that is {state}", lambda: next(
            (r for r in self.runs()[:1] if r.find_element(By.CLASS_NAME, "chip").text == state), None))

    def picture(self, name, whole=True):
        if PICTURES is None:
            return
        if whole:
            self.shape(self.width, self.driver.execute_script("return document.documentElement.scrollHeight"))
        self.driver.save_screenshot(os.path.join(PICTURES, name + ".png"))

    def complaints(self):
        """What the browser has to say, but for the icon that nobody has."""
        return [e["message"] for e in self.driver.get_log("browser") if "favicon" not in e["message"]]


@pytest.fixture
def open_page(tmp_path):
    opened = []

    def make(web, **more):
        folder = tmp_path / str(len(opened))
        folder.mkdir()
        opened.append(Page(web, str(folder), **more))
        return opened[-1]
    yield make
    for page in opened:
        page.driver.quit()


def test_the_button_makes_reports_and_their_file_is_downloaded(make_web, open_page):
    web = make_web().start()
    with web.writing() as conn:
        write_roles(conn, 1, 3)
    page = open_page(web)
    page.picture("entry")
    page.enter("run")
    page.seen("the reports", lambda: page.text("all-label") == "All reports (3)")
    assert page.seen("a sentence", lambda: "behind" in page.text("sentence") and page.text("sentence"))
    assert page.at("no-runs").is_displayed()
    page.at("press").click()
    run = page.first("Published")
    assert run.find_element(By.CLASS_NAME, "run-what").text == "All reports"
    page.seen("what became of it beside the button", lambda: page.text("asked") == "Published: the files are below.")
    assert "by token run" in run.find_element(By.CLASS_NAME, "run-facts").text
    run.find_element(By.TAG_NAME, "summary").click()
    buttons = page.seen("its files", lambda: run.find_elements(By.CSS_SELECTOR, ".run-files button"))
    names = [b.get_attribute("aria-label") for b in buttons]
    assert names == [f"Download {n}" for n in ("nrp_1/roles.csv", "nrp_1/roles.txt", "nrp_1/roles.xml", "nrp_1/day.csv",
                                              "other/empty.csv", "manifest.json")]
    assert "no file: schema wants a row" in run.text
    page.picture("published")
    buttons[0].click()
    path = os.path.join(page.downloads, "roles.csv")
    wait_for("the file", lambda: os.path.exists(path))
    run_id = run.get_attribute("data-run")
    with open(path, "rb") as f:
        assert hashlib.sha256(f.read()).hexdigest() == web.digest(run_id)["nrp_1/roles.csv"]
    assert page.complaints() == []


def test_what_goes_wrong_is_said_in_words_and_the_page_goes_on(make_web, open_page):
    """A token that nobody knows, one that may only look, a run that fails, a companion that is away; on a phone, in the dark."""
    web = make_web(build="select 1/0;").start()
    page = open_page(web, width=390, height=844, dark=True)
    page.enter("rolag_nobody")
    page.seen("the refusal", lambda: "not known here" in page.text("trouble"))
    assert not page.at("inside").is_displayed() and page.at("token").is_displayed()
    page.picture("refused")
    page.enter("read")
    page.seen("the reports", lambda: page.text("all-label") == "All reports (3)")
    page.at("press").click()
    page.seen("the scope", lambda: "The token read has not the scope reports:run." in page.text("asked"))
    page.at("leave").click()
    page.enter("run")
    page.driver.find_element(By.CSS_SELECTOR, "input[value=some]").click()
    assert not page.at("press").is_enabled() and "Choose" in page.text("as-of-help")
    page.at("filter").send_keys("every")
    boxes = [b for b in page.driver.find_elements(By.CSS_SELECTOR, "#reports input") if b.is_displayed()]
    assert [b.get_attribute("value") for b in boxes] == ["nrp_1/01_roles"]
    boxes[0].send_keys(Keys.SPACE)
    assert page.text("press") == "Make 1 report" and not page.at("as-of").is_enabled()
    page.picture("choice")
    page.at("press").send_keys(Keys.ENTER)
    run = page.first("Failed")
    assert "reports.build" in run.find_element(By.CLASS_NAME, "run-reason").text
    page.seen("what became of it", lambda: page.text("asked") == "Failed: the run below says why.")
    assert page.driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    page.picture("failed")
    web.reports.kill9()
    page.seen("that nobody answers", lambda: "does not answer" in page.text("trouble"))
    web.start_reports()
    page.seen("that somebody does", lambda: not page.at("trouble").is_displayed())


def test_older_runs_come_when_they_are_asked_for_and_no_key_is_pressed_in_vain(make_web, open_page):
    web = make_web().start()
    web.warehouse("insert into rolag.report_run (pipeline, type, state, reports, requester, requested_at, ended_at, reason) "
                  "select %s, 'manual', 'failed', '{nrp_1/01_roles}', 'somebody', now() - n * interval '1 hour', now(), 'why ' "
                  "|| n from generate_series(45, 1, -1) n", web.settings["pipeline"])
    page = open_page(web)
    page.enter("read")
    page.seen("the first page", lambda: len(page.runs()) == 20)
    page.at("more").send_keys(Keys.ENTER)
    page.seen("the second", lambda: len(page.runs()) == 40)
    page.at("more").send_keys(Keys.ENTER)
    page.seen("the last", lambda: len(page.runs()) == 45 and not page.at("more").is_displayed())
    reasons = [r.find_element(By.CLASS_NAME, "run-reason").text for r in page.runs()]
    assert reasons == [f"why {n}" for n in range(1, 46)]
    # Every control has a name, and Tab comes by all of them.
    nameless = page.driver.execute_script("""
        return [...document.querySelectorAll('button, input, summary')].filter(e => !(e.textContent.trim() || e.labels?.length
          || e.getAttribute('aria-label'))).map(e => e.outerHTML)""")
    assert nameless == []
    assert page.complaints() == []
