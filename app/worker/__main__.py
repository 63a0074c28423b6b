from app.worker.main import main

main()
