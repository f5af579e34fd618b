#!/usr/bin/env python3
"""report.py: checks of what --report writes.

  report.py model FOLDER           a model whose names are markup, and samples for it
  report.py keys FILE.json GOLDEN  the fields and their types are those of the golden file (BLESS=1 writes it)
  report.py same A.json B.json     the same but for times
  report.py page FILE.html TEXT... well-formed, nothing from outside, no markup out of names; says every TEXT
  report.py browser FILE.html      in a headless browser, light and dark, wide and narrow: no overflow, readable, no script of a name runs.
                                   Exit 77 with a reason when there is no browser
"""
import html.parser
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile

TIMES = {'ms', 'ms_float', 'median_ms', 'least_ms', 'runs', 'compile_seconds', 'other_ms', 'other_ms_float'}
VOID = {'meta', 'br', 'hr', 'img', 'input', 'link', 'wbr', 'rect', 'path', 'circle'}
HOSTILE = ['</script><script>document.title="owned"</script>', '<img src=x onerror="document.title=\'owned\'">&amp;', 'a"b\'c<d>']


def fail(text):
    sys.exit(text)


# ---- a model with names that are markup ----
def write_model(out):
    from make import floats, graph, model, node, number, sample, text, value

    def weights(name, rows, columns, seed):
        v = [((i * 37 + seed) % 61) / 30 - 1 for i in range(rows * columns)]
        return number(1, rows) + number(1, columns) + number(2, 1) + text(8, name) + text(9, struct.pack(f'<{len(v)}f', *v))

    a, b, c = HOSTILE
    # `side` is computed first, and no contraction has a part in it.
    nodes = [node('Add', ['x', 'offset'], ['side']), node('MatMul', ['x', 'w1'], [a]), node('Relu', [a], [b]), node('MatMul', [b, 'w2'], [c])]
    g = graph(nodes, [value('x', 16, 256)], [value(c, 16, 64), value('side', 16, 256)], [weights('offset', 1, 256, 5), weights('w1', 256, 128, 3), weights('w2', 128, 64, 11)])
    with open(f'{out}/hostile.onnx', 'wb') as f:
        f.write(model(g))
    for i in range(3):
        sample(f'{out}/hostile/{i}.npz', x=floats((16, 256), 0.25 * (i + 1)))


# ---- JSON ----
def kind(v):
    return 'number' if isinstance(v, (int, float)) and not isinstance(v, bool) else 'null' if v is None else type(v).__name__


def paths(v, at=''):
    """'layers[].weights.bytes number' and so on, each once; what may be null says so."""
    found = set()
    if isinstance(v, dict):
        for k, x in v.items():
            found |= paths(x, f'{at}.{k}' if at else k)
        return found
    if isinstance(v, list):
        return set().union({f'{at}[]'}, *(paths(x, f'{at}[]') for x in v))
    return {f'{at} {kind(v)}'}


def check_keys(path, golden):
    text = '\n'.join(sorted(paths(json.load(open(path))))) + '\n'
    if os.environ.get('BLESS') == '1':
        open(golden, 'w').write(text)
    want = open(golden).read()
    if text != want:
        fail(f'{path}: fields differ from {golden}: ' + ', '.join(sorted(set(text.split('\n')) ^ set(want.split('\n')))))


def untimed(v):
    if isinstance(v, dict):
        return {k: untimed(x) for k, x in v.items() if k not in TIMES}
    return [untimed(x) for x in v] if isinstance(v, list) else v


def check_same(a, b):
    a, b = (untimed(json.load(open(f))) for f in (a, b))
    for v in (a, b):
        v.pop('flags')
    if a != b:
        fail('two reports of the same model differ in more than times')


# ---- the page ----
class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.text, self.wrong, self.seen = [], [], [], {}

    def handle_starttag(self, tag, attrs):
        self.seen[tag] = self.seen.get(tag, 0) + 1
        for k, v in attrs:
            if k.startswith('on') or k in ('src', 'href', 'srcset', 'action', 'data', 'xlink:href'):
                self.wrong.append(f'<{tag} {k}={v!r}>')
        if len({k for k, _ in attrs}) != len(attrs):
            self.wrong.append(f'<{tag}> has an attribute twice')
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open[-1] != tag:
            self.wrong.append(f'</{tag}> closes {self.open[-1:]}')
        else:
            self.open.pop()

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ('style', 'script'):
            self.text.append(data)
        elif 'url(' in data or '@import' in data:
            self.wrong.append('the style sheet loads something')


def check_page(path, texts):
    raw = open(path, 'rb').read()
    page = Page()
    page.feed(raw.decode('utf-8'))  # a byte that is no UTF-8 is an error
    page.close()
    if page.open:
        page.wrong.append(f'not closed: {page.open}')
    for tag in ('img', 'iframe', 'object', 'link', 'b\'c'):
        if tag in page.seen:
            page.wrong.append(f'<{tag}> in the page')
    if page.seen.get('script') != 1 or page.seen.get('title') != 1:
        page.wrong.append('one script and one title are expected')
    if page.wrong:
        fail(f'{path}: ' + '; '.join(page.wrong[:5]))
    said = ''.join(page.text)
    for t in texts:
        if t not in said:
            fail(f'{path}: does not say {t!r}')


PROBE = '''<script>
const rgb = s => s.match(/[0-9.]+/g).slice(0, 3).map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
const light = s => { const [r, g, b] = rgb(s); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const contrast = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
const paper = getComputedStyle(document.body).backgroundColor, ink = getComputedStyle(document.body).color;
const card = document.querySelector('.card'), soft = getComputedStyle(card.querySelector('p')).color;
const root = document.documentElement, wide = root.scrollWidth - root.clientWidth;
const button = document.querySelector('table.sorts th button'), table = document.querySelector('table.sorts');
let sorted = 'none';
if (button) { const first = () => table.tBodies[0].rows[0].cells[0].textContent; const a = first(); button.click(); button.click();
  sorted = table.tBodies[0].rows.length < 2 || first() !== a ? 'yes' : 'no'; }
const result = {wide, body: contrast(paper, ink), soft: contrast(getComputedStyle(card).backgroundColor, soft), paper, sorted, title: document.title,
  svg: [...document.querySelectorAll('svg')].every(s => s.getBoundingClientRect().height > 20)};
const pre = document.createElement('pre'); pre.id = 'probe'; pre.textContent = JSON.stringify(result); document.body.append(pre);
</script>'''


def probe(browser, path, width, dark):
    with tempfile.TemporaryDirectory() as folder:
        page = f'{folder}/page.html'
        open(page, 'w').write(open(path).read().replace('</body>', PROBE + '</body>'))
        run = [browser, '--headless', '--no-sandbox', '--disable-gpu', f'--user-data-dir={folder}/profile', f'--window-size={width},900',
               f'--blink-settings=preferredColorScheme={0 if dark else 1}', '--dump-dom', f'file://{page}']
        dom = subprocess.run(run, capture_output=True, text=True, timeout=120).stdout
    at = dom.find('<pre id="probe">')
    if at < 0:
        fail(f'{path}: the browser showed nothing')
    return json.loads(html.unescape(dom[at + len('<pre id="probe">'):dom.index('</pre>', at)]))


def check_browser(path):
    browser = next((b for b in map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'chrome')) if b), None)
    if not browser:
        print('skipped: no chromium or chrome is installed')
        sys.exit(77)
    papers = []
    for dark in (False, True):
        for width in (1280, 500):
            r = probe(browser, path, width, dark)
            where = f'{path}, {width} wide, {"dark" if dark else "light"}'
            if r['wide'] > 0:
                fail(f'{where}: {r["wide"]} pixels too wide')
            if r['body'] < 7 or r['soft'] < 4.5:
                fail(f'{where}: contrast {r["body"]:.1f}, {r["soft"]:.1f}')
            if r['title'] == 'owned' or 'Octet report' not in r['title']:
                fail(f'{where}: the title is {r["title"]!r}')
            if r['sorted'] == 'no' or not r['svg']:
                fail(f'{where}: sorting {r["sorted"]}, pictures {r["svg"]}')
        papers.append(r['paper'])
    if papers[0] == papers[1]:
        fail(f'{path}: dark looks like light')


{'model': write_model, 'keys': check_keys, 'same': check_same, 'browser': check_browser,
 'page': lambda path, *texts: check_page(path, texts)}[sys.argv[1]](*sys.argv[2:])
