"""Python: functions and assignments, judged by their syntax trees."""

from __future__ import annotations

from smidgen.evaluation.suite.making.drafts import Draft

_FUNCTIONS = """add|a, b|the sum of a and b|return a + b|add(2, 3) == 5
subtract|a, b|a minus b|return a - b|subtract(7, 3) == 4
multiply|x, y|the product of x and y|return x * y|multiply(4, 5) == 20
square|number|the square of number|return number * number|square(6) == 36
double|value|twice the value|return 2 * value|double(8) == 16
is_even|number|whether number is even|return number % 2 == 0|is_even(4) and not is_even(5)
is_odd|n|whether n is odd|return n % 2 == 1|is_odd(5) and not is_odd(4)
maximum|p, q|the larger of p and q|return p if p > q else q|maximum(3, 9) == 9 and maximum(9, 3) == 9
minimum|p, q|the smaller of p and q|return p if p < q else q|minimum(3, 9) == 3 and minimum(9, 3) == 3
greet|name|the text Hello followed by a space and the name|return 'Hello ' + name|greet('Mia') == 'Hello Mia'
first_item|items|the first of the items|return items[0]|first_item([4, 5, 6]) == 4
last_item|items|the last of the items|return items[-1]|last_item([4, 5, 6]) == 6
count_items|items|the number of items|return len(items)|count_items([4, 5, 6]) == 3
total|numbers|the sum of all numbers|return sum(numbers)|total([1, 2, 3]) == 6
reverse_text|text|the text backwards|return text[::-1]|reverse_text('abc') == 'cba'
upper_text|text|the text in capital letters|return text.upper()|upper_text('abc') == 'ABC'
is_positive|value|whether value is above zero|return value > 0|is_positive(3) and not is_positive(-3)
absolute|x|the absolute value of x|return abs(x)|absolute(-3) == 3 and absolute(3) == 3
half|amount|amount divided by two|return amount / 2|half(10) == 5
area|width, height|the area of a rectangle|return width * height|area(3, 4) == 12
average|x, y|the mean of x and y|return (x + y) / 2|average(2, 4) == 3
repeat_text|text, count|the text repeated count times|return text * count|repeat_text('ab', 2) == 'abab'
contains_item|items, item|whether item is one of the items|return item in items|contains_item([1, 2], 2)
sorted_items|items|the items in rising order|return sorted(items)|sorted_items([3, 1, 2]) == [1, 2, 3]"""

_ASSIGNMENTS = """width|the number 7|7
name|the string Mia|'Mia'
items|an empty list|[]
numbers|a list of 1, 2 and 3|[1, 2, 3]
ready|the boolean true|True
price|the number 2.5|2.5
total|the sum of a and b|a + b
area|the product of width and height|width * height
city|the string Paris|'Paris'
count|the length of items|len(items)
ages|an empty dictionary|{}
difference|a minus b|a - b
result|the value None|None
first|the first element of items|items[0]
letters|the list of the strings a and b|['a', 'b']
height|the number 12|12
largest|the maximum of a and b|max(a, b)
open_door|the boolean false|False
point|the tuple of 3 and 4|(3, 4)
half|number divided by 2|number / 2
color|the string green|'green'
year|the number 2024|2024"""


def code_drafts() -> list[Draft]:
    """Functions and assignments."""
    return [_functions(), _assignments()]


def _functions() -> Draft:
    stop = ("\n\n", "\ndef ", "\nclass ", "\n#", "\n```")
    draft = Draft("python_functions", "code", "Python functions", "python", stop, 64, "\n    ")
    for row in _FUNCTIONS.splitlines():
        name, arguments, returns, body, test = row.split("|")
        opened = f'def {name}({arguments}):\n    """Return {returns}."""'
        draft.add(
            opened,
            f"Write a Python function {name}({arguments}) that returns {returns}.",
            body,
            {
                "opened": opened,
                "tree": {"function": name, "arguments": arguments.split(", ")},
                "checks": [test],
            },
            f"```python\ndef {name}({arguments}):\n    {body}\n```",
        )
    return draft


def _assignments() -> Draft:
    draft = Draft("python_assignments", "code", "Python assignments", "python")
    for row in _ASSIGNMENTS.splitlines():
        name, described, value = row.split("|")
        draft.add(
            f"# Set the variable {name} to {described}.\n{name} =",
            f"Write one line of Python that sets the variable {name} to {described}.",
            value,
            {"opened": f"{name} =", "tree": {"assigns": name, "value": value}},
            f"```python\n{name} = {value}\n```",
        )
    return draft
