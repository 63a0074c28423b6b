"""Sixty pieces of what language models write, each above the words that are spoken."""

_LINES = r"""
**Sure!** Here's a quick overview of *photosynthesis*.
Sure! Here's a quick overview of photosynthesis.
### Key takeaways
Key takeaways
- **Speed**: it is ~3× faster.
Speed: it is ~3 times faster.
* Use `pip install numpy` first.
Use pip install numpy first.
1. **Preheat** the oven to 350 °F.
1. Preheat the oven to 350 degrees Fahrenheit.
2) Mix ½ cup of sugar with 2½ cups of flour.
2) Mix a half cup of sugar with 2 and a half cups of flour.
The answer is **x = 5**, since 2·5 = 10.
The answer is x = 5, since 2 times 5 = 10.
According to [Wikipedia](https://en.wikipedia.org/wiki/Cat_(animal)), cats sleep a lot.
According to Wikipedia, cats sleep a lot.
> "Be yourself; everyone else is already taken."
"Be yourself; everyone else is already taken."
***Important:*** back up your data!
Important: back up your data!
✅ All tests passed.
check mark All tests passed.
❌ The build failed on line 42.
cross mark The build failed on line 42.
⚠️ **Warning:** this cannot be undone.
warning Warning: this cannot be undone.
Great question! 😊 Let's dive in 🚀
Great question! Let's dive in
The file is called `my_config_file.yaml`.
The file is called my_config_file.yaml.
Set `MAX_SIZE = 10 * 1024` in the header.
Set MAX_SIZE = 10 * 1024 in the header.
It costs $5.99 (about €5.50).
It costs $5.99 (about 5.50 euros).
Water boils at 100 °C – or 212 °F – at sea level.
Water boils at 100 degrees Celsius, or 212 degrees Fahrenheit, at sea level.
H₂O and CO₂ are molecules.
H2O and CO2 are molecules.
Einstein's equation is E = mc².
Einstein's equation is E = mc squared.
The area is πr².
The area is pi r squared.
A → B → C is a chain.
A to B to C is a chain.
Home -> Settings -> Audio
Home to Settings to Audio
If a < b and b < c, then a < c.
If a < b and b < c, then a < c.
I <3 this!
I <3 this!
C# and C++ are languages, F# too.
C# and C++ are languages, F# too.
5*3=15 and 4*2=8.
5*3=15 and 4*2=8.
We're #1 in the region.
We're #1 in the region.
Use snake_case or camelCase.
Use snake_case or camelCase.
“Smart quotes” and ‘single ones’… gone.
"Smart quotes" and 'single ones', gone.
The café's naïve façade.
The café's naïve façade.
Œuvre, cœur and Łódź.
Oeuvre, coeur and Lódz.
Tom &amp; Jerry&#39;s house
Tom & Jerry's house
Line one<br>line two<br/>line three
Line one line two line three
<b>Bold</b>, <i>italic</i> and <u>underlined</u>
Bold, italic and underlined
<think>Let me see.</think>The answer is 4.
The answer is 4.
~~Old price~~ New price: £10
Old price New price: 10 pounds
**Nested *emphasis* works**, too.
Nested emphasis works, too.
_Really?_ __Yes.__
Really? Yes.
| Name | Role |
Name, Role
| **Ann** | *Lead* |
Ann, Lead
**Q:** What is AI? **A:** A field.
Q: What is AI? A: A field.
## 3. Results & Discussion ##
3. Results & Discussion
- [x] Write the tests
Write the tests
- [ ] Ship it
Ship it
That's true[^1] and well known[^note].
That's true and well known.
The function `f(x)` returns `x²`.
The function f(x) returns x squared.
He is 5′10″ tall, i.e. 1.78 m.
He is 5 feet 10 inches tall, i.e. 1.78 m.
The temperature fell to −5 °C overnight.
The temperature fell to minus 5 degrees Celsius overnight.
About ≈ 3.14, or ± 0.01.
About about 3.14, or plus or minus 0.01.
Rating: ★★★★☆
Rating: 4 out of 5 stars
See https://example.com/a_b_c?d=1 for more.
See https://example.com/a_b_c?d=1 for more.
The ﬁrst ﬂight was in 1903.
The first flight was in 1903.
Use Ctrl+C, then ⌘V.
Use Ctrl+C, then V.
Version 2.0 → 3.0 (≥ 10% faster)
Version 2.0 to 3.0 (greater than or equal to 10% faster)
Sources【4:0†source】say so.
Sources say so.
![A diagram](diagram.png) shows it.
A diagram shows it.
[START] Begin here [STOP]
(START) Begin here (STOP)
Note*: terms apply. *Terms and conditions.
Note*: terms apply. Terms and conditions.
Thanks — and *good luck*! 🎉🎉🎉
Thanks, and good luck!
""".strip().splitlines()

EXPECTED = dict(zip(_LINES[::2], _LINES[1::2], strict=True))
"""What is written → what is spoken, without pauses."""

SENTENCES = tuple(EXPECTED)
