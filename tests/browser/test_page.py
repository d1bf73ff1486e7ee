"""The chat page in headless Chromium. `make test-browser` runs these; elsewhere they are skipped."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from smidgen.runtime import EngineInfo, Event, SamplingParams
from smidgen.serving import ServerSettings, running
from smidgen.tokenization import train_tokenizer

pytestmark = pytest.mark.browser
KEY = "the-key"


class Echo:
    """Answers each prompt with a text of the test's, a token a step; `hold` keeps it from going on after a few."""

    def __init__(self) -> None:
        self.tokenizer = train_tokenizer("byte_bpe", ["user assistant system"] * 20, 300)
        self.text = "Hello."
        self.hold = threading.Event()
        self.hold.set()
        self.prompts: list[str] = []
        self.params: list[SamplingParams] = []
        self.cancelled = 0
        self._answers: dict[int, list[int]] = {}
        self._count = 0

    @property
    def info(self) -> EngineInfo:
        end = self.tokenizer.eos_id
        assert end is not None
        return EngineInfo("echo", self.tokenizer.vocab_size, 4096, (end,), 1_500_000, 4)

    def submit(self, ids: Sequence[int], params: SamplingParams) -> int:
        self._count += 1
        self.prompts.append(self.tokenizer.decode(list(ids)))
        self.params.append(params)
        self._answers[self._count] = [*self.tokenizer.encode(self.text), self.info.eos_ids[0]]
        return self._count

    def step(self) -> list[Event]:
        if not self.hold.is_set():
            time.sleep(0.02)
            return []
        events: list[Event] = []
        for number, left in list(self._answers.items()):
            token = left.pop(0)
            events.append(Event(number, token, None if left else "stop"))
            if not left:
                del self._answers[number]
        return events

    def cancel(self, request: int) -> None:
        self.cancelled += self._answers.pop(request, None) is not None


class Slow(Echo):
    """An answer without end."""

    def step(self) -> list[Event]:
        time.sleep(0.02)
        return [Event(number, self.tokenizer.encode("a")[0]) for number in self._answers]


class Tab:
    """One page of the browser."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver = driver
        driver.get(url)
        driver.execute_script("localStorage.clear(); sessionStorage.clear()")
        driver.get(url)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        from selenium.common.exceptions import StaleElementReferenceException

        while True:
            try:
                return [element.text for element in self.driver.find_elements("css selector", selector)]
            except StaleElementReferenceException:  # the page drew them anew meanwhile
                continue

    def wait(self, condition: Callable[[], Any]) -> Any:
        end = time.monotonic() + 15
        while not (value := condition()):
            assert time.monotonic() < end
            time.sleep(0.05)
        return value

    def keys(self, selector: str, *keys: str) -> None:
        self.find(selector).send_keys(*keys)

    def say(self, text: str) -> None:
        from selenium.webdriver.common.keys import Keys

        self.wait(lambda: self.find("#model").text == "tiny")
        self.keys("#input", text, Keys.ENTER)

    def ready(self) -> None:
        self.wait(lambda: self.find("#send").is_displayed() and not self.texts(".writing"))


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    binary, service = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if binary is None or service is None:
        pytest.skip("no Chromium with its driver (apt install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1280,860",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(service))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def engine() -> Echo:
    return Echo()


@pytest.fixture(scope="module")
def url(engine: Echo) -> Iterator[str]:
    with running(engine, engine.tokenizer, "tiny", ServerSettings(port=0)) as url:
        yield url


@pytest.fixture
def tab(driver: Any, url: str, engine: Echo) -> Iterator[Tab]:
    engine.text = "Hello."
    engine.prompts.clear()
    engine.params.clear()
    tab = Tab(driver, url)
    yield tab
    errors = [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []


def test_a_conversation_is_kept_and_taken_up_again(tab: Tab, engine: Echo) -> None:
    tab.say("First?")
    tab.ready()
    assert tab.texts(".message .body") == ["First?", "Hello."]
    assert "token" in tab.find(".assistant .stats").text
    engine.text = "Again."
    tab.say("Second?")
    tab.ready()
    assert engine.prompts[-1].count("First?") == engine.prompts[-1].count("Hello.") == 1
    tab.driver.refresh()
    assert tab.texts(".message .body") == ["First?", "Hello.", "Second?", "Again."]
    tab.find("#new").click()
    assert tab.texts(".message .body") == []
    tab.find("#conversations .open").click()
    assert len(tab.texts(".message .body")) == 4


def test_markdown_is_drawn_and_nothing_of_it_runs(tab: Tab, engine: Echo) -> None:
    engine.text = (
        "# Title\n\nSome **bold** and `code` <img src=x onerror=\"document.title='owned'\">\n\n- one\n- two\n\n"
        "```python\nprint('<b>')\n```\n\n[bad](javascript:alert(1)) [good](https://example.org/)\n\n"
        "| a | b |\n|---|---|\n| 1 | 2 |\n<script>document.title='owned'</script>"
    )
    tab.say("Show")
    tab.ready()
    body = ".assistant .body "
    assert tab.texts(body + "h1") == ["Title"]
    assert tab.texts(body + "strong") == ["bold"]
    assert tab.texts(body + "li") == ["one", "two"]
    assert tab.texts(body + "pre code") == ["print('<b>')"]
    assert tab.texts(body + "td") == ["1", "2"]
    assert tab.texts(body + "a") == ["good"]
    assert tab.texts(body + "img") == tab.texts(body + "script") == []
    assert "<img src=x" in tab.find(body).text
    assert "owned" not in tab.driver.title


def test_regenerate_and_edit(tab: Tab, engine: Echo) -> None:
    from selenium.webdriver.common.keys import Keys

    tab.say("One?")
    tab.ready()
    engine.text = "Other."
    tab.find(".assistant [aria-label='Answer again']").click()
    tab.wait(lambda: tab.texts(".assistant .body") == ["Other."])
    tab.ready()
    tab.keys("#input", Keys.ARROW_UP)
    tab.keys(".editor textarea", Keys.CONTROL, "a", Keys.NULL, "Edited?", Keys.ENTER)
    tab.wait(lambda: tab.texts(".user .body") == ["Edited?"])
    tab.ready()
    assert "One?" not in engine.prompts[-1]


def test_system_prompt_and_sampling(tab: Tab, engine: Echo) -> None:
    tab.find("#open-settings").click()
    tab.keys("#system", "Be brief.")
    tab.keys("#seed", "7")
    tab.keys("#max_tokens", "50")
    tab.driver.execute_script(
        "const t = document.getElementById('temperature'); t.value = 0; t.dispatchEvent(new Event('input'))"
    )
    tab.say("Go")
    tab.ready()
    assert "Be brief." in engine.prompts[-1]
    params = engine.params[-1]
    assert (params.temperature, params.seed, params.max_new_tokens, params.top_p) == (0, 7, 50, 0.95)


def test_dark_and_light(tab: Tab) -> None:
    colour = lambda: tab.driver.execute_script("return getComputedStyle(document.body).backgroundColor")  # noqa: E731
    seen = set()
    for _ in range(3):
        tab.find("#theme").click()
        seen.add(colour())
    assert len(seen) == 2


def test_a_phone(tab: Tab) -> None:
    size = tab.driver.get_window_size()
    metrics = {"width": 390, "height": 780, "deviceScaleFactor": 1, "mobile": True}
    tab.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        tab.wait(lambda: not tab.find("#sidebar").is_displayed())
        tab.say("Hi")
        tab.ready()
        assert tab.driver.execute_script("return document.documentElement.scrollWidth") <= 390
        assert tab.find("#input").rect["y"] + tab.find("#input").rect["height"] <= 780
        tab.find("#open-sidebar").click()
        tab.wait(lambda: tab.find("#new").is_displayed())
    finally:
        tab.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        tab.driver.set_window_size(size["width"], size["height"])


def test_stopping_cancels_at_the_server(driver: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    engine = Slow()
    with running(engine, engine.tokenizer, "tiny", ServerSettings(port=0)) as url:
        tab = Tab(driver, url)
        tab.say("Go")
        tab.wait(lambda: len(tab.find(".assistant .body").text) > 3)
        assert "tokens/s" in tab.wait(lambda: tab.find("#status").text)
        tab.keys("#input", Keys.ESCAPE)
        tab.ready()
        tab.wait(lambda: engine.cancelled == 1)
        assert "stopped" in tab.find(".assistant .stats").text
        assert set(tab.find(".assistant .body").text) == {"a"}


def test_the_key_is_asked_for(driver: Any, engine: Echo) -> None:
    engine.text = "Hello."
    with running(engine, engine.tokenizer, "tiny", ServerSettings(port=0, api_key=KEY)) as url:
        tab = Tab(driver, url)
        tab.wait(lambda: tab.find("#key").is_displayed())
        tab.keys("#key", "wrong\n")
        tab.wait(lambda: "not the key" in tab.find("#key-error").text)
        tab.keys("#key", KEY + "\n")
        tab.say("Hi")
        tab.ready()
        assert tab.texts(".message .body") == ["Hi", "Hello."]
    driver.get_log("browser")  # the refusals stand there
