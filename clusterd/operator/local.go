package operator

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"math"
	"net/http"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	agentv1 "github.com/mesolith/mesolith/api/mesos/v1/agent"
	"github.com/mesolith/mesolith/api/mesos/v1/master"
	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/clusterd/files"
	"github.com/mesolith/mesolith/internal/nodedoc"
)

// What concerns the node that answers, and is the same on masters and agents: how much it
// logs, and the files of its tasks.

// Logging is how much a program logs. The protocol counts from 0, which is what it logs
// always; everything above is all there is.
type Logging struct {
	level *slog.LevelVar
	usual slog.Level

	mu    sync.Mutex
	now   uint32
	reset *time.Timer
}

// NewLogging begins with what is logged now.
func NewLogging(level *slog.LevelVar) *Logging { return &Logging{level: level, usual: level.Level()} }

// Level is the protocol's number.
func (l *Logging) Level() uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

// Set changes it for a time, after which it is 0 again.
func (l *Logging) Set(level uint32, d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reset != nil {
		l.reset.Stop()
	}
	l.set(level)
	l.reset = time.AfterFunc(d, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.set(0)
	})
}

func (l *Logging) set(level uint32) {
	if l.now = level; level == 0 {
		l.level.Set(l.usual)
		return
	}
	l.level.Set(min(l.usual, slog.LevelDebug))
}

// longestLogging bounds how long more is logged.
const longestLogging = 24 * time.Hour

// CheckLogging says what is wrong with a wish for another level.
func CheckLogging(level uint32, d time.Duration) string {
	switch {
	case level > math.MaxInt32:
		return "Invalid level: it is at most 2147483647"
	case d <= 0 || d > longestLogging:
		return "Invalid duration: more is logged for more than nothing and at most a day"
	}
	return ""
}

// fileInfos words a listing.
func fileInfos(ctx context.Context, from files.Config, path string) ([]*mesosv1.FileInfo, error) {
	list, err := from.List(ctx, path)
	if err != nil {
		return nil, missing(err)
	}
	var out []*mesosv1.FileInfo
	for _, f := range list {
		out = append(out, &mesosv1.FileInfo{
			Path: proto.String(f.GetPath()), Nlink: proto.Int32(int32(min(f.GetNlink(), math.MaxInt32))), Size: proto.Uint64(uint64(max(f.GetSize(), 0))),
			Mtime: timeInfo(f.GetMtimeUnixNs()), Mode: proto.Uint32(f.GetMode()), Uid: proto.String(f.GetUser()), Gid: proto.String(f.GetGroup()),
		})
	}
	return out, nil
}

// page reads a part of a file; without a length, as much as one answer holds.
func page(ctx context.Context, from files.Config, path string, offset uint64, length *uint64) (data []byte, size uint64, err error) {
	most := int64(-1)
	if length != nil {
		most = int64(min(*length, math.MaxInt64))
	}
	if offset > math.MaxInt64 {
		return nil, 0, refusal{http.StatusBadRequest, "'offset' is beyond any file"}
	}
	data, n, err := from.Read(ctx, path, int64(offset), most)
	if err != nil {
		return nil, 0, missing(err)
	}
	return data, uint64(n), nil
}

// missing gives what is wrong with a path its status.
func missing(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return refusal{http.StatusNotFound, err.Error()}
	case errors.Is(err, fs.ErrPermission):
		return refusal{http.StatusForbidden, err.Error()}
	case errors.Is(err, fs.ErrInvalid):
		return refusal{http.StatusBadRequest, err.Error()}
	}
	return err
}

func (h *handler) listFiles(c *call) (*master.Response, error) {
	list, err := fileInfos(c.Context(), h.Files, c.Call.GetListFiles().GetPath())
	return &master.Response{Type: master.Response_LIST_FILES.Enum(), ListFiles: &master.Response_ListFiles{FileInfos: list}}, err
}

func (h *handler) readFile(c *call) (*master.Response, error) {
	asked := c.Call.GetReadFile()
	data, size, err := page(c.Context(), h.Files, asked.GetPath(), asked.GetOffset(), asked.Length)
	return &master.Response{Type: master.Response_READ_FILE.Enum(), ReadFile: &master.Response_ReadFile{Data: data, Size: &size}}, err
}

func (h *handler) loggingLevel(*call) (*master.Response, error) {
	return &master.Response{Type: master.Response_GET_LOGGING_LEVEL.Enum(), GetLoggingLevel: &master.Response_GetLoggingLevel{Level: proto.Uint32(h.Logging.Level())}}, nil
}

func (h *handler) setLoggingLevel(c *call) (*master.Response, error) {
	asked := c.Call.GetSetLoggingLevel()
	return nil, setLogging(h.Logging, asked.GetLevel(), asked.GetDuration())
}

func setLogging(l *Logging, level uint32, d *mesosv1.DurationInfo) error {
	lasts := time.Duration(d.GetNanoseconds())
	if why := CheckLogging(level, lasts); why != "" {
		return refusal{http.StatusBadRequest, why}
	}
	l.Set(level, lasts)
	return nil
}

func (h *agentHandler) listFiles(c *agentCall, r *agentv1.Response) error {
	list, err := fileInfos(c.ctx, h.Files, c.GetListFiles().GetPath())
	r.Type, r.ListFiles = agentv1.Response_LIST_FILES.Enum(), &agentv1.Response_ListFiles{FileInfos: list}
	return err
}

func (h *agentHandler) readFile(c *agentCall, r *agentv1.Response) error {
	data, size, err := page(c.ctx, h.Files, c.GetReadFile().GetPath(), c.GetReadFile().GetOffset(), c.GetReadFile().Length)
	r.Type, r.ReadFile = agentv1.Response_READ_FILE.Enum(), &agentv1.Response_ReadFile{Data: data, Size: &size}
	return err
}

func (h *agentHandler) loggingLevel(_ *agentCall, r *agentv1.Response) error {
	r.Type, r.GetLoggingLevel = agentv1.Response_GET_LOGGING_LEVEL.Enum(), &agentv1.Response_GetLoggingLevel{Level: proto.Uint32(h.Logging.Level())}
	return nil
}

func (h *agentHandler) setLoggingLevel(c *agentCall, r *agentv1.Response) error {
	from := auth.PrincipalOf(c.ctx)
	if !from.May(nodedoc.RoleOperator) {
		return refuse(c.ctx, c.GetType().String(), "", "The call SET_LOGGING_LEVEL needs the role 'operator', and "+from.String()+" does not have it")
	}
	err := setLogging(h.Logging, c.GetSetLoggingLevel().GetLevel(), c.GetSetLoggingLevel().GetDuration())
	audit(c.ctx, c.GetType().String(), "", err)
	r.Type = nil // 200 without a body
	return err
}
