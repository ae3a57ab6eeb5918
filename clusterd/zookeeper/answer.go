package zookeeper

// answer answers one request; false: it was the last.
func (c *conn) answer(q request) (more bool, err error) {
	switch q.op {
	case opSetWatches, opSetWatches2:
		return true, c.setWatches(q)
	case opClose:
		return false, c.reply(q, ok, nil)
	case opAuth:
		// Credentials would matter to who may write. Unknown kinds end a connection.
		if q.scheme != "digest" {
			return false, c.reply(q, errAuthFailed, nil)
		}
		return true, c.reply(q, ok, nil)
	}
	code, body := c.look(q)
	return true, c.reply(q, code, body)
}

// reply sends an answer; body writes what follows the header, and only after ok.
func (c *conn) reply(q request, code errorCode, body func(frame) frame) error {
	f := newFrame().int32(q.xid).int64(c.seen.zxid).int32(int32(code))
	if code == ok && body != nil {
		f = body(f)
	}
	return c.write(f.done())
}

// look answers what asks for one znode, and what would write.
func (c *conn) look(q request) (errorCode, func(frame) frame) {
	n := c.seen.nodes[q.path]
	switch q.op {
	case opPing:
		return ok, nil
	case opSync: // what this node knows is what it knows
		return ok, func(f frame) frame { return f.bytes([]byte(q.path)) }
	case opExists, opGetData, opGetACL, opGetChildren, opGetChildren2:
		if q.watch && (n != nil || q.op == opExists) && !c.want(watch{q.path, q.op == opGetChildren || q.op == opGetChildren2}) {
			return errSystem, nil
		}
		if n == nil {
			return errNoNode, nil
		}
		return ok, read(q.op, n)
	case opCreate, opCreate2, opCreateContainer, opCreateTTL:
		// libmesos makes sure that the group is there before it looks into it.
		if n != nil {
			return errNodeExists, nil
		}
		return errNoAuth, nil
	case opDelete, opSetData, opSetACL, opCheck, opDeleteContainer:
		if n == nil {
			return errNoNode, nil
		}
		return errNoAuth, nil
	case opMulti, opReconfig:
		return errNoAuth, nil
	}
	return errUnimplemented, nil
}

// read gives what a reading request is answered with.
func read(op opcode, n *znode) func(frame) frame {
	return func(f frame) frame {
		switch op {
		case opGetData:
			f = f.bytes(n.data)
		case opGetACL:
			const mayRead = 1
			f = f.int32(1).int32(mayRead).bytes([]byte("world")).bytes([]byte("anyone"))
		case opGetChildren:
			return f.texts(n.children)
		case opGetChildren2:
			f = f.texts(n.children)
		}
		return f.stat(n.stat)
	}
}

// setWatches takes up watches that a client had on another connection. What it saw there
// cannot be compared with what is known here beyond the term, so every watch of something
// that is there fires at once: to read once more than needed does no harm, and no change
// is missed.
func (c *conn) setWatches(q request) error {
	if q.persistent {
		return c.reply(q, errUnimplemented, nil)
	}
	if len(q.dataWatches)+len(q.existWatches)+len(q.childWatches) > c.s.cfg.Limits.Watches {
		return c.reply(q, errSystem, nil)
	}
	for _, list := range []struct {
		paths           []string
		there, notThere event
	}{
		{q.dataWatches, eventData, eventDeleted}, {q.childWatches, eventChildren, eventDeleted}, {q.existWatches, eventCreated, 0},
	} {
		for _, path := range list.paths {
			what := list.there
			if c.seen.nodes[path] == nil {
				what = list.notThere
			}
			if what == 0 {
				if !c.want(watch{path: path}) {
					return c.reply(q, errSystem, nil)
				}
				continue
			}
			if err := c.fire(path, what); err != nil {
				return err
			}
		}
	}
	return c.reply(q, ok, nil)
}
