package modules

// glob matches a whole text against a pattern of *, ? and [a-f0-9] or [!…]. It takes
// time at most proportional to the product of the lengths.
func glob(pattern, text string) bool {
	p, t := 0, 0
	star, mark := -1, 0
	for t < len(text) {
		if p < len(pattern) && pattern[p] == '*' {
			star, mark = p, t
			p++
			continue
		}
		if n, ok := one(pattern[p:], text[t]); ok {
			p += n
			t++
			continue
		}
		if star < 0 {
			return false
		}
		mark++
		p, t = star+1, mark
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// one matches one byte against the beginning of a pattern and says how long that was.
func one(pattern string, c byte) (length int, ok bool) {
	if pattern == "" {
		return 0, false
	}
	switch pattern[0] {
	case '?':
		return 1, true
	case '[':
		return class(pattern, c)
	}
	return 1, pattern[0] == c
}

func class(pattern string, c byte) (length int, ok bool) {
	i, not := 1, false
	if i < len(pattern) && (pattern[i] == '!' || pattern[i] == '^') {
		i, not = i+1, true
	}
	hit := false
	for first := true; i < len(pattern) && (first || pattern[i] != ']'); first = false {
		lo := pattern[i]
		hi := lo
		if i+2 < len(pattern) && pattern[i+1] == '-' && pattern[i+2] != ']' {
			hi = pattern[i+2]
			i += 2
		}
		hit = hit || lo <= c && c <= hi
		i++
	}
	if i >= len(pattern) {
		return 1, c == '[' // not closed: a bracket is a bracket
	}
	return i + 1, hit != not
}
