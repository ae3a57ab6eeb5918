package replica

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
)

// boltStore is log and stable store in one bbolt file: the candidate that raft-wal is
// compared with (docs/adr/0002). One transaction a batch, entries by index.
type boltStore struct{ db *bbolt.DB }

var (
	logBucket    = []byte("log")
	stableBucket = []byte("stable")
)

func openBolt(dir string) (*boltStore, error) {
	db, err := bbolt.Open(filepath.Join(dir, "raft.bolt"), 0o600, &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, b := range [][]byte{logBucket, stableBucket} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		db.Close()
		return nil, err
	}
	return &boltStore{db}, nil
}

func (b *boltStore) close() error { return b.db.Close() }

func indexKey(i uint64) []byte { return binary.BigEndian.AppendUint64(nil, i) }

func (b *boltStore) bound(move func(*bbolt.Cursor) []byte) (index uint64, err error) {
	err = b.db.View(func(tx *bbolt.Tx) error {
		if k := move(tx.Bucket(logBucket).Cursor()); k != nil {
			index = binary.BigEndian.Uint64(k)
		}
		return nil
	})
	return index, err
}

func (b *boltStore) FirstIndex() (uint64, error) {
	return b.bound(func(c *bbolt.Cursor) []byte { k, _ := c.First(); return k })
}

func (b *boltStore) LastIndex() (uint64, error) {
	return b.bound(func(c *bbolt.Cursor) []byte { k, _ := c.Last(); return k })
}

func (b *boltStore) GetLog(i uint64, l *raft.Log) error {
	return b.db.View(func(tx *bbolt.Tx) error {
		raw := tx.Bucket(logBucket).Get(indexKey(i))
		if raw == nil {
			return raft.ErrLogNotFound
		}
		if len(raw) < 17 {
			return fmt.Errorf("entry %d has %d bytes", i, len(raw))
		}
		*l = raft.Log{
			Index: i, Term: binary.BigEndian.Uint64(raw), Type: raft.LogType(raw[8]),
			AppendedAt: time.Unix(0, int64(binary.BigEndian.Uint64(raw[9:]))), Data: append([]byte(nil), raw[17:]...),
		}
		return nil
	})
}

func (b *boltStore) StoreLog(l *raft.Log) error { return b.StoreLogs([]*raft.Log{l}) }

func (b *boltStore) StoreLogs(logs []*raft.Log) error {
	return b.db.Update(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket(logBucket)
		bucket.FillPercent = 0.9 // keys rise
		for _, l := range logs {
			raw := binary.BigEndian.AppendUint64(nil, l.Term)
			raw = append(raw, byte(l.Type))
			raw = binary.BigEndian.AppendUint64(raw, uint64(l.AppendedAt.UnixNano()))
			if err := bucket.Put(indexKey(l.Index), append(raw, l.Data...)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *boltStore) DeleteRange(lo, hi uint64) error {
	return b.db.Update(func(tx *bbolt.Tx) error {
		c := tx.Bucket(logBucket).Cursor()
		for k, _ := c.Seek(indexKey(lo)); k != nil && binary.BigEndian.Uint64(k) <= hi; k, _ = c.Next() {
			if err := c.Delete(); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *boltStore) Set(k, v []byte) error {
	return b.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(stableBucket).Put(k, v) })
}

func (b *boltStore) Get(k []byte) (v []byte, err error) {
	err = b.db.View(func(tx *bbolt.Tx) error {
		v = append([]byte(nil), tx.Bucket(stableBucket).Get(k)...)
		return nil
	})
	return v, err
}

func (b *boltStore) SetUint64(k []byte, v uint64) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return b.Set(k, raw)
}

func (b *boltStore) GetUint64(k []byte) (v uint64, err error) {
	raw, err := b.Get(k)
	if err != nil || len(raw) == 0 {
		return 0, err
	}
	return v, json.Unmarshal(raw, &v)
}
