"""The console as an operator sees it: in a headless Chromium, before the real server and before one
whose hour was made up."""

import base64
import json
import os
import pathlib
import re
import shutil
import subprocess
import time
import urllib.request

import pytest
from conftest import BINARY, CHAT, ROOT, Server, need_models
from openai import OpenAI

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

KEY = "pk-console-test"
BUILD = pathlib.Path(os.environ.get("PLIMSOLL_BUILD", ROOT / "build/release"))


@pytest.fixture(scope="module")
def browser():
    for program in ("chromium", "chromedriver"):
        if not shutil.which(program):
            pytest.skip(f"no {program}: install Debian's chromium and chromium-driver (`./dev setup`)")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    # As root, and where /dev/shm is small, Chromium starts with these only.
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                     "--disable-background-networking"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def look(browser, width=1280, dark=False):
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def wait(browser, script):
    WebDriverWait(browser, 30, 0.1).until(lambda b: b.execute_script("return " + script), script)


def text(browser, element):
    return browser.find_element(By.ID, element).text


def only_asked(browser, url):
    """No error in the browser's console, and no request but to the server and for data: URLs."""
    errors = [line for line in browser.get_log("browser") if line["level"] != "INFO"]
    assert not errors
    asked = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    urls = {
        message["params"]["request"]["url"]
        for message in asked
        if message["method"] == "Network.requestWillBeSent"
    }
    assert any("/console/data" in u for u in urls)
    assert not [u for u in urls if not u.startswith((url + "/", "data:"))]


def keep(browser, name):
    """The whole page as a picture, where $PLIMSOLL_SCREENSHOTS says."""
    folder = os.environ.get("PLIMSOLL_SCREENSHOTS")
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
    picture = base64.b64decode(shot["data"])
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000
    if folder:
        pathlib.Path(folder, name + ".png").write_bytes(picture)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server with keys and one model, that has answered a tenant and refused another request."""
    need_models(CHAT)
    if not os.access(BINARY, os.X_OK):
        pytest.skip(f"no binary {BINARY}; build it first")
    config = tmp_path_factory.mktemp("console") / "config.yaml"
    digest = subprocess.run(["sha256sum"], input=KEY, capture_output=True, text=True).stdout[:64]
    other = subprocess.run(["sha256sum"], input="pk-acme", capture_output=True, text=True).stdout[:64]
    config.write_text(
        "tenants:\n"
        f"  - {{name: platform, operator: true, api_key_sha256: {digest}}}\n"
        f"  - {{name: acme, api_key_sha256: {other}, sequences: 1}}\n"
    )
    running = Server("--config", str(config), models=(CHAT,))
    client = OpenAI(base_url=running.url + "/v1", api_key="pk-acme", max_retries=0)
    client.completions.create(model=CHAT, prompt="Once upon a time " * 30, max_tokens=48)
    with pytest.raises(Exception, match="tenant"):
        client.completions.create(model=CHAT, prompt="a", n=2, max_tokens=4)
    yield running
    assert running.stop() == 0, running.log_text()


def test_the_real_server(guarded, browser):
    look(browser)
    browser.get(guarded.url + "/console")
    wait(browser, "!document.getElementById('gate').hidden")
    assert browser.find_element(By.ID, "console").is_displayed() is False
    # The refusal without a key is what makes it ask; nothing else may have gone wrong.
    errors = [line["message"] for line in browser.get_log("browser") if line["level"] != "INFO"]
    assert all("401" in message for message in errors), errors
    for key, answer in (("pk-acme", "operator"), ("pk-none", "not known")):
        browser.find_element(By.ID, "gate-key").send_keys(key + "\n")
        wait(browser, f"document.getElementById('gate-why').textContent.includes('{answer}')")
    browser.get_log("browser")
    browser.find_element(By.ID, "gate-key").send_keys(KEY + "\n")
    wait(browser, "document.querySelector('#tenants .name')")
    wait(browser, "document.getElementById('tenants').textContent.includes('acme')")
    for component in ("kv", "activations", "tokenizer", "unattributed"):
        assert component in text(browser, "components")
    assert "ready" in text(browser, "nodes") and CHAT in text(browser, "nodes")
    assert "green" in text(browser, "tiles")
    assert not browser.find_element(By.ID, "disk-kinds").is_displayed(), "no node has a cache on disk"
    assert browser.execute_script("return sessionStorage.getItem('plimsoll-key')") == KEY
    keep(browser, "real")
    only_asked(browser, guarded.url)
    browser.find_element(By.ID, "forget").click()
    wait(browser, "!document.getElementById('gate').hidden")
    assert browser.execute_script("return sessionStorage.length") == 0


def test_the_history_grows(guarded):
    def data(query=""):
        request = urllib.request.Request(guarded.url + "/console/data" + query)
        request.add_header("Authorization", "Bearer " + KEY)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    first = data()["points"]
    deadline = time.monotonic() + 60
    while not (later := data(f"?after={first[-1]['id']}")["points"]):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert later[0]["id"] == first[-1]["id"] + 1
    assert 0 < later[0]["used"] < later[0]["limit"]
    assert any(name == "acme" for name, _ in later[0]["tenants"])


def test_every_metric_that_the_reference_lists_is_there(guarded):
    request = urllib.request.Request(guarded.url + "/metrics")
    request.add_header("Authorization", "Bearer " + KEY)
    with urllib.request.urlopen(request) as answer:
        live = set(re.findall(r"^# TYPE (plimsoll_\w+)", answer.read().decode(), re.M))
    reference = (ROOT / "docs/REFERENCE.md").read_text().split("## Metrics")[1].split("\n## ")[0]
    listed = set(re.findall(r"^\| `(plimsoll_\w+)`", reference, re.M))
    assert live <= listed, f"the reference lacks {sorted(live - listed)}"
    # Of a cgroup or a kernel that this machine may not have, of growth that there is not now, or of a
    # cache on disk.
    may_lack = {name for name in listed if re.search("_cgroup_|_stall_|_trend_|seconds_to_limit|plimsoll_cache_", name)}
    assert listed - live <= may_lack, f"the server lacks {sorted(listed - live - may_lack)}"


@pytest.fixture(scope="module")
def busy():
    """The gateway before an hour that was made up: many tenants, every kind of event, and hostile text."""
    binary = BUILD / "tests/actors/gateway/fake_openai_server"
    if not binary.exists():
        pytest.skip(f"no binary {binary}; build it first")
    process = subprocess.Popen([binary], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    yield next(line.strip() for line in process.stdout if line.startswith("http"))
    process.terminate()
    process.wait(10)


@pytest.mark.parametrize("width", (1280, 400))
@pytest.mark.parametrize("dark", (False, True), ids=("light", "dark"))
def test_a_busy_hour(width, dark, busy, browser):
    browser.get("about:blank")
    browser.get_log("performance"), browser.get_log("browser")
    look(browser, width, dark)
    browser.get(busy + "/console")
    wait(browser, "document.querySelector('#events tbody tr')")
    # What tenants wrote is text.
    assert "<img src=x onerror=alert(1)><script>alert(2)</script>" in text(browser, "events")
    assert browser.execute_script("return document.querySelectorAll('main img, main script').length") == 0
    for chart in ("components", "tenants", "share", "tokens", "sequences", "disk-kinds", "disk-tenants", "disk-hits"):
        plot = browser.find_element(By.CSS_SELECTOR, f"#{chart} svg[role=img]")
        assert " at " in plot.get_attribute("aria-label")
        assert plot.find_elements(By.TAG_NAME, "path"), chart
    for tenants in ("tenants", "disk-tenants"):
        assert "globex" in text(browser, tenants) and "others" in text(browser, tenants)
    assert "prefix" in text(browser, "disk-kinds") and "%" in text(browser, "disk-hits")
    # Nothing is wider than the screen.
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    browser.find_element(By.CSS_SELECTOR, "[data-minutes='60']").click()
    keep(browser, f"busy-{width}-{'dark' if dark else 'light'}")
    only_asked(browser, busy)


def contrast(a, b):
    def luminance(color):
        parts = [int(n) / 255 for n in re.findall(r"\d+", color)[:3]]
        r, g, b = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", (False, True), ids=("light", "dark"))
def test_it_can_be_read_and_used_without_a_mouse(dark, busy, browser):
    look(browser, dark=dark)
    browser.get(busy + "/console")
    wait(browser, "document.querySelector('#events tbody tr')")
    color = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    surface = browser.execute_script(color, ".card", "backgroundColor")
    for what in ("body", ".muted", ".tiles .l0, .tiles .l1, .tiles .l2, .tiles .l3", "#events .l2", "th"):
        ink = browser.execute_script(color, what, "color")
        assert contrast(ink, surface) >= 4.5, what
    plot = browser.find_element(By.CSS_SELECTOR, "#components svg[role=img]")
    now = plot.get_attribute("aria-label")
    browser.execute_script("arguments[0].focus()", plot)
    plot.send_keys("\ue012" * 3)  # the left arrow
    assert plot.get_attribute("aria-label") != now
    kinds = browser.find_element(By.ID, "kinds")
    kinds.send_keys("cancel")
    wait(browser, "document.querySelectorAll('#events tbody tr').length === 1")
